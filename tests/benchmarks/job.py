"""Job: what the benchmarks ask of every ticket."""

from keld import Job
from tests.benchmarks.ticket import PROMPT, SCHEMA, SYSTEM

JOB = Job(name="bench", key="id", system=SYSTEM, prompt=PROMPT, output_type=SCHEMA, models="openai:gpt-5-mini")
