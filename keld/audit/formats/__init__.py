"""Formats: the kinds of logs that are read, a table of names each.

    litellm          LiteLLM spend logs and its standard logging payload
    langfuse         Langfuse observations
    helicone         Helicone requests
    otlp             OpenTelemetry traces, with GenAI or OpenInference spans
    openinference    OpenInference spans, as Phoenix saves them
    mlflow           MLflow traces
    openrouter       OpenRouter activity
    portkey          Portkey logs
    bedrock          Bedrock invocation log
    openai_usage     OpenAI usage API and dashboard CSV
    anthropic_usage  Anthropic usage and cost API, and console CSV
    pairs            requests and responses
    bill             FOCUS, and AWS Cost and Usage Report
    mapped           any other table, by a mapping of the user's own
"""

from keld.audit.format import Format
from keld.audit.formats import (
    anthropic_usage,
    bedrock,
    bill,
    helicone,
    langfuse,
    litellm,
    mlflow,
    openai_usage,
    openinference,
    openrouter,
    otlp,
    pairs,
    portkey,
)

FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        litellm.TABLE,
        litellm.PAYLOAD,
        langfuse.FORMAT,
        helicone.FORMAT,
        otlp.FORMAT,
        openinference.FORMAT,
        mlflow.FORMAT,
        openrouter.FORMAT,
        portkey.FORMAT,
        bedrock.FORMAT,
        openai_usage.PAGES,
        openai_usage.TABLE,
        anthropic_usage.PAGES,
        anthropic_usage.USAGE,
        anthropic_usage.COST,
        pairs.FORMAT,
        bill.FOCUS,
        bill.CUR,
    )
}
