"""The entry point of all scripts: Hydra composes the config; a user's error becomes one sentence and exit code 1."""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import hydra
from _commands import as_typed, check_choices, chosen, print_help, typed_options, untaken_options
from _options import Options
from _sentences import of_start, of_unknown, of_work
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dias_video.machine.memory import lack_of_memory

USERS = (ValueError, OSError, OmegaConfBaseException, hydra.errors.InstantiationException)  # errors of the user


def options(cfg: DictConfig, but: Sequence[str] = ()) -> dict[str, Any]:
    """The options of a script as plain values for its function, except those named in ``but``."""
    plain: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    return {name: value for name, value in plain.items() if name not in (*but, "matmul_precision")}


def _set_up(matmul_precision: str) -> None:
    """Set PyTorch's precision and threads, if the script has imported it."""
    if "torch" in sys.modules:
        from dias_video.machine.precision import set_matmul_precision
        from dias_video.machine.threads import follow_quota

        set_matmul_precision(matmul_precision)
        follow_quota()


def _part() -> None:
    """Leave the other processes, if this process has joined any."""
    if "dias_video.machine.ranks" in sys.modules:
        sys.modules["dias_video.machine.ranks"].part()


def entry(config_name: str, *functions: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[[], Any]]:
    """Decorate ``main(cfg)`` so that ``main()`` composes ``configs/<config_name>.yaml`` with the command line.

    The annotations of ``functions`` and of ``main`` say which values options may have. ``main`` gets ``cfg``, and the
    options that are its other parameters.

    ValueError, FileNotFoundError and other operating-system errors are errors of the user here: their message is
    printed and the process exits with 1. So it is with a lack of memory, whose message names options to lower.
    ``DIAS_TRACEBACK=1`` shows the traceback instead.
    """

    def decorate(main: Callable[..., Any]) -> Callable[[], Any]:
        composed = False
        typed: list[str] = []
        known = Options({}, ())
        named = list(inspect.signature(main).parameters)[1:]

        @functools.wraps(main)
        def guarded(cfg: DictConfig) -> Any:
            nonlocal composed
            composed = True
            sys.argv[:] = typed  # recorded as the command of the run
            try:
                for option, value in typed_options(cfg):
                    known.check(option, value)
                for option in untaken_options(known):
                    raise ValueError(of_unknown(option, known))
                _set_up(cfg.matmul_precision)
                done = main(cfg, **{name: cfg[name] for name in named})
                _part()
                return done
            except SystemExit as end:
                from dias_video.machine.ranks import Interrupted  # imported here, since --help does not need it

                if isinstance(end, Interrupted):
                    end.leave()
                _part()
                raise
            except KeyboardInterrupt:
                sys.exit(130)
            except Exception as error:
                lacking = lack_of_memory(error) is not None  # perhaps only here, and the other processes wait
                if os.environ.get("DIAS_TRACEBACK") or not (lacking or isinstance(error, USERS)):
                    raise
                print(f"error: {of_work(error, cfg)}", file=sys.stderr, flush=True)
                if not lacking:  # all processes agree
                    _part()
                sys.exit(1)

        run = hydra.main(version_base="1.3", config_path="../configs", config_name=config_name)(guarded)

        @functools.wraps(main)
        def started() -> Any:
            # An experiment belongs to one script: experiment=x is configs/experiment/<script>/x.yaml, for which Hydra
            # needs experiment/<script>=x.
            typed[:] = sys.argv
            nonlocal known
            words = [re.sub("^experiment=", f"experiment/{config_name}=", word) for word in typed[1:]]
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors are raised; Hydra would print several lines
            with suppress(hydra.errors.HydraException, ValueError, TypeError):  # raised again when Hydra starts
                config = chosen(config_name, words)
                if {"-h", "--help"} & set(words):
                    return print_help(main.__globals__["__doc__"], config_name, config.hydra.runtime.choices)
                known = Options(OmegaConf.to_container(config, resolve=False), [main, *functions])
            sys.argv[1:] = as_typed(words, known)
            try:
                check_choices(words)
                return run()
            except (hydra.errors.HydraException, ValueError, TypeError) as error:
                if composed or os.environ.get("DIAS_TRACEBACK"):
                    raise
                print(f"error: {of_start(error, config_name, known)}", file=sys.stderr, flush=True)
                sys.exit(1)

        started.takers = [main, *functions]  # type: ignore[attr-defined]
        return started

    return decorate
