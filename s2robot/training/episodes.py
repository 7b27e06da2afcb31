"""Which demonstrations a run uses, and which of them it holds out for validation."""

from __future__ import annotations

from s2robot.config import TrainConfig
from s2robot.data import DemonstrationDataset
from s2robot.data.selection import positions_of, select_episodes
from s2robot.training.windows import split_episodes


def choose_episodes(dataset: DemonstrationDataset, config: TrainConfig) -> tuple[list[int], list[int], list[int]]:
    """Return the positions of the chosen demonstrations in the dataset, and which of them train and validate.

    - `num_demonstrations` takes the first of those that the other settings choose.
    - Without `validation_filter_key`, `training.validation_fraction` of them is held out.
    - With it, the demonstrations that it lists are held out as far as `episodes` and `successes_only` choose them too.
      The others train, or those of `filter_key`; `num_demonstrations` counts only these.

    Returns:
        Positions in the dataset, in recorded order; indices into these positions for training, and for validation.

    Raises:
        DatasetError: too few demonstrations, a setting names what does not exist, or a demonstration would be both
            trained on and held out.
    """
    if config.validation_filter_key is None:
        chosen = _first(dataset, select_episodes(dataset, config.selection), config)
        return chosen, *split_episodes(len(chosen), config.training.validation_fraction)
    training, validation = _by_filter_key(dataset, config, config.validation_filter_key)
    chosen = sorted(training + validation)
    places = {index: place for place, index in enumerate(chosen)}
    return chosen, [places[index] for index in training], [places[index] for index in validation]


def _by_filter_key(dataset: DemonstrationDataset, config: TrainConfig, key: str) -> tuple[list[int], list[int]]:
    held_out = set(positions_of(dataset, key, "validation_filter_key"))
    selection = config.selection
    pool = select_episodes(dataset, selection)
    if selection.filter_key is None:
        validation = [index for index in pool if index in held_out]
        pool = [index for index in pool if index not in held_out]
    else:
        both = [dataset.demos[index] for index in pool if index in held_out]
        if both:
            raise dataset.error(
                f"filter_key={selection.filter_key!r} and validation_filter_key={key!r} both list {', '.join(both[:4])}"
                f"{' …' if len(both) > 4 else ''}; what is held out cannot be trained on"
            )
        selection.filter_key = key
        validation = select_episodes(dataset, selection)
    for name, left in (("train on", pool), ("validate on", validation)):
        if not left:
            raise dataset.error(f"validation_filter_key={key!r} and the other settings leave nothing to {name}")
    return _first(dataset, pool, config), validation


def _first(dataset: DemonstrationDataset, chosen: list[int], config: TrainConfig) -> list[int]:
    count = config.num_demonstrations
    if count is not None and count > len(chosen):
        left = "" if len(chosen) == len(dataset) else f", of which the settings leave {len(chosen)}"
        raise dataset.error(f"has {len(dataset)} demonstrations{left}, but {count} were requested")
    return chosen[:count]
