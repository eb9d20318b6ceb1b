"""First-frame queries: Gaussians and boxes."""

import pytest
import torch

from dias_video.draws import Draws
from dias_video.model.initializers import BoxInitializer, GaussianInitializer, box_cover, largest_boxes
from dias_video.model.layers import fourier_features
from dias_video.model.learned_initializer import LearnedInitializer
from dias_video.model.tiny import LookingBoxInitializer

B, S, D, K = 3, 4, 5, 2
TOKENS = torch.randn(B, 6, D, generator=torch.Generator().manual_seed(4))  # on a 2x3 grid


def test_gaussians() -> None:
    shared = GaussianInitializer(S, D)
    queries, mask = shared(TOKENS, Draws.for_step(0, 0, range(B)))
    assert queries.shape == (B, S, D)
    assert mask.all()
    noise = Draws.for_step(0, 0, range(B)).normal(S, D)
    torch.testing.assert_close(queries, shared.mean + noise * shared.log_std.exp())
    separate = GaussianInitializer(S, D, shared=False)
    assert not torch.allclose(separate(TOKENS, Draws.for_step(0, 0, range(B)))[0], separate.mean.expand(B, -1, -1))
    separate.eval()
    torch.testing.assert_close(separate(TOKENS, Draws.for_step(0, 0, range(B)))[0], separate.mean.expand(B, S, D))


def test_initial_scales_are_the_released_ones() -> None:
    """Shared: Xavier-uniform on (1,1,D), whose bound is sqrt(6 / 2D). One a slot: Xavier on (S,D), deviation D^-0.5."""
    torch.manual_seed(0)
    slots, dim = 7, 256
    shared = GaussianInitializer(slots, dim)
    for parameter in (shared.mean, shared.log_std):
        assert float(parameter.abs().max()) == pytest.approx((6 / (2 * dim)) ** 0.5, rel=0.02)
        assert float(parameter.abs().max()) <= (6 / (2 * dim)) ** 0.5
    separate = GaussianInitializer(slots, dim, shared=False)
    assert float(separate.mean.abs().max()) == pytest.approx((6 / (slots + dim)) ** 0.5, rel=0.02)
    torch.testing.assert_close(separate.log_std, torch.full((slots, dim), dim**-0.5).log())


def test_learned_queries_begin_as_their_papers_have_it() -> None:
    """SlotContrast: a Gaussian of deviation D^-0.5, whose largest of 1792 passes 3 deviations. BO-QSA, SPOT: Xavier."""
    torch.manual_seed(0)
    slots, dim = 7, 256
    normal = LearnedInitializer(slots, dim).slots.detach()
    assert float(normal.std()) == pytest.approx(dim**-0.5, rel=0.05)
    assert float(normal.abs().max()) > 3 * dim**-0.5
    uniform = LearnedInitializer(slots, dim, begin="xavier").slots.detach()
    assert float(uniform.std()) == pytest.approx((2 / (slots + dim)) ** 0.5, rel=0.05)
    assert float(uniform.abs().max()) <= (6 / (slots + dim)) ** 0.5
    with pytest.raises(ValueError, match="begin must be normal or xavier, got 'unit'"):
        LearnedInitializer(slots, dim, begin="unit")


@pytest.mark.parametrize("dim", [8, 64, 192])
def test_queries_of_boxes_begin_at_the_scale_of_the_gaussian_and_apart(dim: int) -> None:
    torch.manual_seed(0)
    initializer = BoxInitializer(21, dim)
    corners = torch.rand(40, 20, 2, 2, generator=torch.Generator().manual_seed(1)).sort(-2).values.flatten(-2)
    tokens = torch.zeros(40, 6, dim)
    queries, _ = initializer(tokens, Draws.for_step(0, 0, range(40)), corners, torch.ones(40, 20, dtype=torch.bool))
    assert 0.7 < float(queries.square().mean().sqrt()) < 1.4
    assert float(initializer.background.square().mean().sqrt()) > 0.6
    unit = torch.nn.functional.normalize(queries, dim=-1)
    cosine = (unit @ unit.mT)[:, ~torch.eye(21, dtype=torch.bool)]
    assert float(cosine.mean()) < 0.6
    assert initializer.embed[0].bias.abs().max() == initializer.embed[2].bias.abs().max() == 0


def test_boxes_become_their_own_slots_and_absent_ones_are_off() -> None:
    initializer = BoxInitializer(S, D)
    boxes = torch.rand(B, K, 4, generator=torch.Generator().manual_seed(0)).sort(-1).values
    valid = torch.tensor([[True, False], [True, True], [False, False]])
    queries, mask = initializer(TOKENS, Draws.for_step(0, 0, range(B)), boxes, valid)
    assert mask.tolist() == [[True, True, False, False], [True, True, True, False], [True, False, False, False]]
    torch.testing.assert_close(queries[:, 0], initializer.background.expand(B, -1))
    torch.testing.assert_close(queries[1, 2], initializer.embed(fourier_features(boxes[1, 1])))


def test_without_boxes_all_slots_start_from_the_seed() -> None:
    initializer = BoxInitializer(S, D)
    queries, mask = initializer(TOKENS, Draws.for_step(0, 0, range(B)))
    torch.testing.assert_close(queries, initializer.seed(TOKENS, Draws.for_step(0, 0, range(B)))[0])
    assert mask.all()


def test_dropped_boxes_in_training_only() -> None:
    initializer = LookingBoxInitializer(S, D, grid=(2, 3), box_dropout=0.5)
    boxes, valid = torch.rand(64, K, 4), torch.zeros(64, K, dtype=torch.bool)
    queries, mask = initializer(torch.zeros(64, 6, D), Draws.for_step(0, 0, range(64)), boxes, valid)
    dropped = mask.all(1)
    assert (queries[dropped, 1].std(0) > 0.5).all()  # from the Gaussian, where boxes would give the tokens' mean
    assert not queries[~dropped].any()
    assert 16 < int(dropped.sum()) < 48
    assert (mask[~dropped].sum(1) == 1).all()
    initializer.eval()
    assert (initializer(torch.zeros(64, 6, D), Draws.for_step(0, 0, range(64)), boxes, valid)[1].sum(1) == 1).all()


def test_too_many_boxes_keep_the_largest_in_their_order() -> None:
    sides = torch.tensor([0.3, 0.1, 0.5, 0.4])
    boxes = torch.stack([torch.zeros(4), torch.zeros(4), sides, sides], -1)[None]
    kept, valid = largest_boxes(boxes, torch.tensor([[True, True, False, True]]), 2)
    torch.testing.assert_close(kept[0, :, 2], torch.tensor([0.3, 0.4]))
    assert valid.all()
    kept, valid = largest_boxes(boxes, torch.tensor([[False, True, False, False]]), 2)
    assert valid.sum() == 1
    assert kept[valid][0, 2] == 0.1


def test_cover_is_the_share_of_each_cell() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [0.5, 0.25, 1.0, 0.5], [0.2, 0.2, 0.2, 0.9]]])
    got = box_cover(boxes, (2, 3))[0]
    assert (got[0] == 1).all()
    torch.testing.assert_close(got[1], torch.tensor([0, 0.25, 0.5, 0, 0, 0]))
    assert (got[2] == 0).all()


def test_queries_begin_as_the_mean_of_the_tokens_in_the_box() -> None:
    initializer = LookingBoxInitializer(S, D, grid=(2, 3))
    left, top = [0.0, 0.0, 1 / 3, 1.0], [1 / 3, 0.0, 1.0, 0.5]
    boxes = torch.tensor([[left, top]] * B)
    valid = torch.tensor([[True, True], [True, False], [False, False]])
    queries, mask = initializer(TOKENS, Draws.for_step(0, 0, range(B)), boxes, valid)
    torch.testing.assert_close(queries[0, 1], (TOKENS[0, 0] + TOKENS[0, 3]) / 2)
    torch.testing.assert_close(queries[0, 2], (TOKENS[0, 1] + TOKENS[0, 2]) / 2)
    torch.testing.assert_close(queries[0, 0], (TOKENS[0, 4] + TOKENS[0, 5]) / 2)
    torch.testing.assert_close(queries[2, 0], TOKENS[2].mean(0))
    assert mask.sum(1).tolist() == [3, 2, 1]


def test_user_errors() -> None:
    with pytest.raises(ValueError, match="num_slots"):
        GaussianInitializer(0, D)
    with pytest.raises(ValueError, match="at least 2"):
        BoxInitializer(1, D)
    with pytest.raises(ValueError, match="box_valid"):
        BoxInitializer(S, D)(TOKENS, Draws.for_step(0, 0, range(B)), torch.zeros(B, K, 4))
