"""Example project: support tickets, triaged and embedded by an LLM every day, in Dagster.

tickets      the table: invented tickets, the same every time
jobs         what is asked of every ticket: two Keld jobs
definitions  the Dagster code location
demo         `make demo`: four days of it, against an emulated provider
"""
