from s2robot.evaluation import EpisodeLog
from s2robot.rollout import EpisodeResult

VIDEO = {"path": "videos/seed7_success.mp4", "seed": 7, "success": True}


def test_finished_episodes_are_there_after_a_restart(tmp_path):
    log = EpisodeLog(tmp_path / "episodes.jsonl", "a")
    log.add(EpisodeResult(8, False, 150), None, 3.0)
    log.add(EpisodeResult(7, True, 33), VIDEO, 5.0)
    again = EpisodeLog(tmp_path / "episodes.jsonl", "a")
    assert again.episodes == {7: EpisodeResult(7, True, 33), 8: EpisodeResult(8, False, 150)}
    assert again.videos == [VIDEO]
    again.add(EpisodeResult(9, True, 30), None, 2.0)
    assert again.seconds == 7.0  # both sessions


def test_line_cut_short_by_a_kill_costs_only_its_own_episode(tmp_path):
    log = EpisodeLog(tmp_path / "episodes.jsonl", "a")
    for seed in (1, 2):
        log.add(EpisodeResult(seed, True, 30), None, 1.0)
    log.path.write_text(log.path.read_text()[:-20])
    again = EpisodeLog(log.path, "a")
    assert list(again.episodes) == [1]
    again.add(EpisodeResult(2, True, 30), None, 1.0)
    assert list(EpisodeLog(log.path, "a").episodes) == [1, 2]


def test_episodes_of_another_evaluation_are_not_counted(tmp_path):
    log = EpisodeLog(tmp_path / "episodes.jsonl", "a")
    log.add(EpisodeResult(1, True, 30), None, 1.0)
    assert EpisodeLog(log.path, "b").episodes == {}
    assert EpisodeLog(log.path, "b").seconds == 0
