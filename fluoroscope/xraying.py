"""What an X-ray reads, step by step, from all rooms.

A step names the result that tells it is done, so that an X-ray picks up where it stopped, and gives
results by name. What a model or a text does not allow (no attention to look at, too few tokens for an
estimate) is left out with the reason; everything else goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .running import Terminal

MANY, FEW, SHORT = 4096, 1024, 64 * 32
"""Tokens the readings read: cheap ones, dear ones, and attention over windows of 64."""
SOURCE, TARGET, SOURCE_TEXTS = 64, 64, 4
"""Tokens of source and continuation, and texts, for attention on a source."""
LATENTS, ACTIVE, SAE_STEPS, SAE_BATCH = 1152, 16, 200, 512
"""Dictionaries of an X-ray: small, and trained for seconds, which their FVU tells."""
SUPERPOSED = 3
"""Layers whose superposition is measured."""


@dataclass(frozen=True)
class Step:
    """One step of an X-ray."""

    name: str
    """The result whose presence tells that the step is done."""
    make: Callable[[Any], Mapping[str, Any]]
    """From a progress callback to results by name."""
    unit: str = "units"
    """What its progress counts."""
    in_parts: bool = False
    """Whether it counts several parts one after another."""


def run_steps(terminal: Terminal, run: Any, steps: Iterator[Step], *, again: bool) -> None:
    """Run the steps that the run file does not hold yet, keeping each as soon as it is done.

    Args:
        terminal: Shows progress, and says what is left out.
        run: The run file.
        steps: In order; each is made when its turn comes.
        again: Whether to run also what is there.
    """
    from .probes.errors import OptionError, SiteError, TooFewTokensError
    from .sae.errors import ActivationsError

    for step in steps:
        if not again and step.name in run.results:
            continue
        title = step.name.replace("_", " ").capitalize()
        try:
            with terminal.track(title, step.unit, in_parts=step.in_parts) as progress:
                found = step.make(progress)
        except (ActivationsError, OptionError, SiteError, TooFewTokensError) as error:
            terminal.say(f"{title} is left out: {error}")
            continue
        for name, result in found.items():
            if result is not None:
                run.add_result(name, result)


def xray_steps(model: Any, run: Any, say: Callable[[str], None]) -> Iterator[Step]:
    """The steps of an X-ray.

    Args:
        model: An opened model.
        run: The run file with its texts and its rows of the residual stream.
        say: Told what a step left out on its own.
    """
    from .probes import check_sites

    yield Step("self_check", lambda _: {"self_check": check_sites(model)})
    yield from _readings(model, run)
    yield from _information(model, run, say)
    yield from _dictionaries(model, run)
    yield from _experts(model, run)


def _readings(model: Any, run: Any) -> Iterator[Step]:
    """Layers, loss, massive activations, sinks, what falls with them, the lens."""
    from .probes import readings
    from .probes.degeneration import DegenerationOptions, attention_degeneration

    def step(name: str, reading: Callable[..., Any], *given: Any) -> Step:
        return Step(name, lambda progress: {name: reading(model, *given, progress=progress)})

    many = readings.texts_of(run, n_tokens=MANY)
    few = readings.texts_of(run, n_tokens=FEW)
    yield step("layer_stats", readings.layer_stats, many)
    yield step("next_token", readings.next_token, many)
    yield step("massive_activations", readings.find_massive, many)
    if "attn.pattern" in model.sites.kinds:
        short = readings.texts_of(run, n_tokens=SHORT, cut=64)
        yield step("attention_sinks", readings.attention_sinks, short)
        massive = run.result("massive_activations", readings.MassiveActivations)
        yield step("ablation_story", readings.ablation_story, few, massive)
        looking_back = DegenerationOptions(n_source=SOURCE, n_target=TARGET, n_probes=1)
        yield Step(
            "attention_degeneration",
            lambda progress: {
                "attention_degeneration": attention_degeneration(
                    model,
                    readings.varied_texts(run, n_texts=SOURCE_TEXTS, length=looking_back.length),
                    looking_back,
                    progress=progress,
                )
            },
            "texts",
        )
    yield step("logit_lens", readings.logit_lens, few)


def _information(model: Any, run: Any, say: Callable[[str], None]) -> Iterator[Step]:
    """What states hold of the tokens to come: few layers, few classes."""
    from .probes.information.reading import xray_readings

    def make(progress: Any) -> Mapping[str, Any]:
        found, missing = xray_readings(model, run, progress=progress)
        for reason in missing:
            say(f"Part of the information is left out: {reason}")
        return found

    yield Step("information_predictions", make, in_parts=True)


def _dictionaries(model: Any, run: Any) -> Iterator[Step]:
    """Superposition by layer, and two small dictionaries of the middle layer with their features."""
    from .sae.superposition.xray import superposition_readings

    yield Step(
        "superposition_layers",
        lambda progress: superposition_readings(run, n_sites=SUPERPOSED, progress=progress),
    )
    yield Step("sae_comparison", lambda progress: _trained(model, run, progress), in_parts=True)


def _trained(model: Any, run: Any, progress: Any) -> dict[str, Any]:
    from .sae.features.firing import add_trace_firing
    from .sae.recipes import learn_options, sae_options
    from .sae.session import SaeSpec, train_saes
    from .sae.sources import RunRows
    from .sae.xray import dictionary_readings

    site = _middle(run)
    latents = max(min(LATENTS, len(run.activations[site]) // 4), ACTIVE)
    specs = [
        SaeSpec(
            name=kind,
            architecture=kind,
            site=site,
            options=sae_options(kind, d_sae=latents, k=ACTIVE),
            learning=learn_options(kind, d_sae=latents, n_steps=SAE_STEPS),
        )
        for kind in ("topk", "mp")
    ]
    trained = train_saes(
        RunRows(run, [site], batch_rows=SAE_BATCH, held_out=0.1), specs, progress=progress
    )
    found = {f"sae_{name}": one.result for name, one in trained.items()}
    saes = {name: one.sae for name, one in trained.items()}
    for name, sae in saes.items():
        add_trace_firing(run, site, sae, name=name)
    return found | dictionary_readings(model, run, saes)


def _middle(run: Any) -> str:
    from .probes.errors import OptionError

    held = sorted(
        (site for site in run.sites if site.endswith(".resid_post")),
        key=lambda site: int(site.split(".")[1]),
    )
    if not held:
        raise OptionError("the run file holds no rows of the residual stream.")
    return held[len(held) // 2]


def _experts(model: Any, run: Any) -> Iterator[Step]:
    """Super experts and what they hold up; nothing for a dense model."""
    from .moe.xray import expert_readings
    from .probes.readings import texts_of

    yield Step(
        "expert_profile",
        lambda progress: expert_readings(model, texts_of(run, n_tokens=FEW), progress=progress),
        in_parts=True,
    )
