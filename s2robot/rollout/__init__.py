"""Rollouts of a checkpoint in simulation: frames → features → action chunks → outcomes, one episode per seed."""

from s2robot.rollout.actor import Actor
from s2robot.rollout.ensemble import ChunkEnsemble
from s2robot.rollout.episodes import EpisodeFilm, EpisodeResult, rollout
from s2robot.rollout.running import RunningEpisode
from s2robot.rollout.timing import Times

__all__ = ["Actor", "ChunkEnsemble", "EpisodeFilm", "EpisodeResult", "RunningEpisode", "Times", "rollout"]
