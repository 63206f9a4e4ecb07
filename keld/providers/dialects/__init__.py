"""Dialects: one file for each family of models: the body of a request and the body of an answer.

    openai_chat         chat completions
    openai_responses    responses
    openai_embeddings   embeddings
    openai_family       the common part of these three
    openai_answer       reads an answer to any of these three
    openai_cache        prompt caching of OpenAI's models, and its fields
    openai_schema       structured outputs of OpenAI: the strict subset
    openai_vocabulary   exact token counts of OpenAI's models
    anthropic_messages  messages
    anthropic_schema    structured outputs of Anthropic
    bedrock_messages    messages by Amazon Bedrock's InvokeModel
    converse            Amazon Bedrock's Converse
    converse_schema     structured outputs of Amazon Bedrock
    mistral             chat completions and embeddings of Mistral
    gemini_generate     generateContent
    gemini_embeddings   embedContent
    gemini_answer       reads an answer to either of these two
    gemini_schema       structured outputs of Gemini: `responseSchema`
    vertex_models       generateContent, and Claude's messages by rawPredict, at Vertex AI

Pure: no clock, no network, no disk.  They implement `keld.providers.part.Dialect`.
"""
