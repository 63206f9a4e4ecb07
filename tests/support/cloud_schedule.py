"""Cloud schedule: `worker_schedule` at the kinds of the clouds, with what is their own: resource names, buckets, tokens, answers that are lost.

Azure, Bedrock, Gemini, Mistral and Vertex; OpenAI and Anthropic are in `worker_schedule`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any
from unittest import mock

from hypothesis import strategies as st
from hypothesis.stateful import initialize

from keld.emulator.services import bedrock_input
from tests.support.ticket_job import PEERS, Peer
from tests.support.worker_schedule import DECLARED, Schedule

# All of them, or those that the environment names (`KELD_CLOUDS=gemini,vertex`).
CLOUDS = [PEERS[name] for name in os.environ.get("KELD_CLOUDS", "azure,bedrock,gemini,mistral,vertex").split(",")]


class CloudSchedule(Schedule):
    """One of the clouds, with tables of some rows."""

    def __init__(self) -> None:
        super().__init__()
        small = mock.patch.object(bedrock_input, "LEAST_RECORDS", 1)
        small.start()
        self._patches.append(small)

    @initialize(peer=st.sampled_from(CLOUDS), **DECLARED)
    def declare(self, peer: Peer, **declared: Any) -> None:
        """As at the others."""
        provider = self.keld.provider(peer.name)  # one for all workers
        provider.traits = replace(provider.traits, least_requests=1)
        super().declare(peer, **declared)

    def at_home(self, fault: dict[str, Any]) -> dict[str, Any]:
        """What can happen wherever a batch has a mark, happens here, too; where nothing expires, no batch is stuck for ever."""
        if fault["do"] == "stuck" and self.peer.name == "azure":
            return {**fault, "do": "expire", "after_s": 86_400}
        return {**fault, "match": {"provider": self.peer.name}} if "match" in fault and fault["do"] != "token_limit" else fault
