"""Physion v1.5 in miniature: the archive's layout, all scenarios, both answers, clips of several lengths."""

import json

from video_files import write

# One or two stems a scenario; the second of `roll` names two scenarios.
STEMS = {
    "collision": ["pilot_it2_collision_non-sphere_box"],
    "drop": ["pilot_it2_drop_simple_box"],
    "towers": ["pilot_towers_nb4_fr015_SJ000_gr01_mono0_dis1_occ1_tdwroom_unstable"],
    "link": ["pilot_linking_nl6_aNone_bCone_occ1_dis1_boxroom"],
    "roll": ["pilot_it2_rollingSliding_simple_ramp_box_small_zone", "pilot_it2_rollingSliding_simple_collision_box"],
    "contain": ["pilot-containment-cone-plate"],
    "dominoes": ["pilot_dominoes_SJ020_d3chairs_o1plants_tdwroom"],
}
LENGTHS = (50, 20, 35)
NUMBERS = {"train": range(100, 102), "test": range(200, 202)}


def write_physion15(root, size=(32, 48)):
    """Clips of 50, 20 and 35 frames in turn, which show their numbers; every second one with contact.

    Returns the tables of labels by split.
    """
    tables = {}
    for split, numbers in NUMBERS.items():
        folder = root / "physion_mp4s" / split
        labels = {}
        for stem in (stem for stems in STEMS.values() for stem in stems):
            for number in numbers:
                length, contact = LENGTHS[len(labels) % 3], number % 2
                write(folder / f"{stem}_{number:04d}.mp4", count=length, size=size)
                frame = (7, 25)[len(labels) % 4 > 1] if contact else length // 2
                labels[f"{stem}_{number:04d}"] = {"label": contact, "contact_frame_label": frame}
        (folder / "all_video_labels.json").write_text(json.dumps(labels))
        tables[split] = labels
    return tables
