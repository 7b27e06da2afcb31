"""Numbers and findings in words, the same in Markdown and HTML."""

from __future__ import annotations

from collections.abc import Sequence

from s2robot.report.arm_results import ArmResult, setting_label
from s2robot.report.contrasts import SIGNIFICANCE, Comparisons, Contrast
from s2robot.report.machines import renderers
from s2robot.report.plan import FailedCell
from s2robot.statistics import Interval


def percent(rate: float) -> str:
    """0.9625 → "96.2%"; a perfect score → "100%"."""
    return "100%" if rate == 1 else f"{100 * rate:.1f}%"


def percent_interval(interval: Interval) -> str:
    """(0.8654, 0.989) → "86.5–98.9"."""
    return f"{100 * interval.low:.1f}–{100 * interval.high:.1f}"


def points(difference: float) -> str:
    """0.08 → "+8.0"; percentage points, with a true minus sign."""
    return f"{100 * difference:+.1f}".replace("-", "−").replace("−0.0", "0.0").replace("+0.0", "0.0")


def points_interval(interval: Interval) -> str:
    """(-0.06, 0.04) → "−6.0 to +4.0"."""
    return f"{points(interval.low)} to {points(interval.high)}"


def pvalue(p: float, alpha: float = SIGNIFICANCE) -> str:
    """0.0123 → "p = 0.012"; small ones → "p < 0.001"; one just above alpha with as many digits as show it."""
    if p < 0.001:
        return "p < 0.001"
    digits = 3 if p < 0.1 else 2
    while p > alpha >= float(f"{p:.{digits}f}"):
        digits += 1
    return f"p = {p:.{digits}f}"


def count(number: float) -> str:
    """4_700_000 → "4.7 M"."""
    for divisor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= divisor:
            return f"{number / divisor:.3g}{unit}"
    return f"{number:.3g}"


def plural(number: int, noun: str) -> str:
    """(1, "arm") → "1 arm", (2, "arm") → "2 arms"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def finding(contrast: Contrast) -> str:
    """One contrast in one sentence: rates, difference, interval, p; a null result as one."""
    base, treated = (percent(rate) for rate in contrast.rates)
    low, high = contrast.difference.interval
    numbers = (
        f"{treated} against {base}, a difference of {points(contrast.difference.value)} points "
        f"[95% interval {points_interval(contrast.difference.interval)}]"
    )
    if contrast.awaited:
        return f"Awaiting results, {contrast.awaited} are here, and no verdict before all are: so far {numbers}."
    numbers += f", {adjusted_pvalue(contrast)}"
    if contrast.verdict == "no difference shown" and low <= 0 <= high:
        return (
            f"No difference shown: {numbers}. The data are compatible with anything from "
            f"{points(low)} to {points(high)} points."
        )
    if contrast.verdict == "no difference shown":
        many = contrast.adjusted > contrast.pvalue
        why = "is that of this comparison alone, and p allows for all of them" if many else "is the more lenient test"
        return f"No difference shown: {numbers}. The interval leaves out 0, but {why}: a lead, not a finding."
    return f"{contrast.verdict.capitalize()}: {numbers}."


def adjusted_pvalue(contrast: Contrast) -> str:
    """The adjusted p-value, as a bound where more resamples would make it smaller."""
    text = pvalue(contrast.adjusted, contrast.alpha)
    return text.replace("=", "≤") if contrast.at_floor else text


def evidence(contrast: Contrast) -> str:
    """What a contrast rests on: states, training seeds, discordant states."""
    seeds = (len(contrast.baseline.cells), len(contrast.treatment.cells))
    runs = (
        plural(seeds[0], "training seed") + " an arm"
        if seeds[0] == seeds[1]
        else f"{seeds[0]} and {seeds[1]} training seeds"
    )
    if contrast.discordant is None:
        return f"{contrast.treatment.episodes} and {contrast.baseline.episodes} unpaired episodes, {runs}"
    only_base, only_treated = (f"{number:.1f}".removesuffix(".0") for number in contrast.discordant)
    improvement = (
        ""
        if contrast.improvement is None
        else f"; a training run of the treatment beats one of the baseline with probability {contrast.improvement:.2f}"
    )
    return (
        f"{contrast.states} shared initial states, {runs}; "
        f"{only_treated} solved by the treatment alone, {only_base} by the baseline alone{improvement}"
    )


def headline(comparisons: Comparisons, arms: Sequence[ArmResult]) -> str:
    """The whole report in one or two sentences."""
    contrasts = [contrast for contrast in comparisons.contrasts if not contrast.awaited]
    if not comparisons.contrasts:
        best = max(arms, key=lambda arm: arm.rate)
        return (
            f"{plural(len(arms), 'arm')} evaluated, nothing compared. Highest success: {percent(best.rate)} "
            f"[{percent_interval(best.interval)}]."
        )
    kind = "planned contrast" if comparisons.planned else "exploratory comparison"
    absent = len(comparisons.missing) if comparisons.planned else 0
    missing = f" {absent} more could not be compared." if absent else ""
    if awaiting := len(comparisons.contrasts) - len(contrasts):
        which = f"{awaiting} more" if contrasts else plural(awaiting, kind)
        missing = f" {which} {'awaits' if awaiting == 1 else 'await'} planned training seeds.{missing}"
    if not contrasts:
        return f"No verdict yet.{missing}"
    shown = [contrast for contrast in contrasts if contrast.is_shown]
    if not shown:
        return (
            f"No difference is shown by any of {plural(len(contrasts), kind)}."
            if len(contrasts) > 1
            else f"The one {kind} shows no difference."
        ) + missing
    higher = sum(contrast.verdict == "higher" for contrast in shown)
    return (
        f"{len(shown)} of {plural(len(contrasts), kind)} {'shows' if len(shown) == 1 else 'show'} a difference: "
        f"treatment higher in {higher}, lower in {len(shown) - higher}; none shown in {len(contrasts) - len(shown)}."
        f"{missing}"
    )


def failed_episodes(arms: Sequence[ArmResult]) -> list[tuple[str, str]]:
    """Where an episode ended in an error (cell and seed), and the error."""
    return [
        (
            f"{setting_label(arm.setting)}, training seed {cell.training_seed}, initial state {failure.seed}",
            failure.error,
        )
        for arm in arms
        for cell in arm.cells
        for failure in cell.failures
    ]


def lacking(cell: FailedCell) -> str:
    """What a failed cell lacks: "no results", or "20 of 100 episodes"."""
    return f"{cell.episodes} of {cell.planned} episodes" if cell.episodes else "no results"


def failed_cells(failed: Sequence[FailedCell]) -> str:
    """How many cells failed, in one sentence: those without results, and those with a part of them."""
    missing = sum(not cell.episodes for cell in failed)
    partial = len(failed) - missing
    parts = [f"{plural(missing, 'cell')} failed and {'is' if missing == 1 else 'are'} missing here"] if missing else []
    if partial:
        which = f"{partial} more" if missing else plural(partial, "cell")
        parts.append(f"{which} failed and {'has' if partial == 1 else 'have'} fewer episodes than planned")
    return ", ".join(parts)


def limits(comparisons: Comparisons, arms: Sequence[ArmResult]) -> list[str]:
    """What the report as a whole cannot conclude."""
    notes = []
    seeds = {len(arm.cells) for arm in arms}
    if min(seeds) == 1:
        which = "Every arm has" if max(seeds) == 1 else "Some arms have"
        notes.append(
            f"{which} a single training seed: intervals hold for those trained policies and leave out how much "
            "training again would change them."
        )
    if not comparisons.planned and comparisons.contrasts:
        notes.append(
            "No contrast was planned beforehand: all pairs of arms that differ in one setting are shown, as leads."
        )
    data = {fingerprint for arm in arms for fingerprint in arm.prints("data")}
    if len(data) > len({arm.setting.task for arm in arms}):
        notes.append(
            "More data sets than tasks: some policies were trained on different demonstrations; each comparison of "
            "such policies says so."
        )
    mixed = [arm for arm in arms if len(arm.prints("data")) > 1 or len(arm.prints("environment")) > 1]
    notes += [
        f"The training seeds of {setting_label(arm.setting)} differ in their data or their environment, and are "
        "counted together."
        for arm in mixed
    ]
    if len(drawn := renderers(arms)) > 1:
        notes.append(
            f"The episodes were rendered by several machines ({'; '.join(drawn)}): pixels may differ by up to 2 of "
            "255, and each comparison that this touches says so."
        )
    if errors := sum(cell.errors for arm in arms for cell in arm.cells):
        notes.append(f"Left out everywhere: {plural(errors, 'episode')} in which the simulator failed, twice each.")
    if comparisons.contrasts:
        notes.append("“No difference shown” is not “no difference”: the interval says how large one may still be.")
    notes.extend(f"Not compared: {reason}." for reason in comparisons.missing)
    return notes


METHOD = (
    "Success is the share of solved episodes. Intervals are at 95%: Wilson's for one training seed; for several, a "
    "bootstrap over training seeds × initial states, because episodes of one training run are not independent trials "
    "of the method. From three training seeds that bootstrap knows little of their spread: in simulations its 95% held "
    "the true rate 95 to 99% of the time where training seeds differed by 4 points or less (standard deviation), and "
    "89 to 91% where they differed by 7 to 9.",
    "Arms are compared on the initial states (evaluation seeds) they share: an equal seed is an equal initial state "
    "where the library versions are equal, and equal pixels where the renderer is too. The difference's interval "
    "redraws those states, and each arm's training seeds. The p-value is the larger of that bootstrap's and of the "
    "exact McNemar test (sign-flip test over initial states for several training seeds), Holm-adjusted over all "
    "planned contrasts, those that await arms or training seeds included; 0.05 or less counts as a difference. Under "
    "sequential stopping "
    "an anytime-valid test (a betting e-process, Waudby-Smith & Ramdas 2024) takes the place of the exact one, and its "
    "interval that of the bootstrap; the contrasts that decided when a benchmark stopped are a family of their own, "
    "adjusted by Bonferroni and held against the level that was stopped at.",
    "The interquartile mean is the mean of the middle half of the training runs' success rates; its interval redraws "
    "the runs of each task (nominally 95%; of few runs about nine times in ten). The "
    "probability of improvement is that of a run of one arm beating one of the other, ties counting one half (Agarwal "
    "et al. 2021).",
    "GMACs are those of the encoder per frame; parameters those of the backbone; latency is the median time of one "
    "action call, encoder and policy together, and depends on the machine.",
)
