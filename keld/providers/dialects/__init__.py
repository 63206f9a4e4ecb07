"""Dialects: one file a family of models: what a request's body says, and what an answer's says.

    openai_chat         chat completions
    openai_responses    responses
    openai_embeddings   embeddings
    openai_family       what these three have in common
    openai_answer       what an answer to any of these three says
    openai_cache        prompt caching of OpenAI's models, and its marks
    openai_schema       structured outputs of OpenAI: the strict subset
    openai_vocabulary   exact token counts of OpenAI's models
    anthropic_messages  messages
    anthropic_schema    structured outputs of Anthropic

Pure: no clock, no network, no disk.  `keld.providers.part.Dialect` is the shape they have.
"""
