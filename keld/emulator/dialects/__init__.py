"""Dialects: what the request bodies of the families of models say, and what is answered to them.

One file a kind of body; `dialect` (one floor up) says what each of them gives.

    openai_body          what chat completions and responses have in common: messages, cache marks, checks, complaints
    openai_chat          /v1/chat/completions
    openai_responses     /v1/responses
    openai_embeddings    /v1/embeddings
    openai_schema        what structured outputs of these refuse in a JSON Schema
    anthropic_body       what a Messages body says, and how many tokens it has
    anthropic_messages   /v1/messages
    anthropic_cache      which part of a Messages body is read from the prompt cache, and written to it
    anthropic_schema     what structured outputs of these refuse in a JSON Schema
    bedrock_messages     messages by Bedrock's InvokeModel
    vertex_messages      messages by Vertex's rawPredict
    converse             Bedrock's Converse
    converse_body        what a Converse body says, and how many tokens it has
    mistral_body         what Mistral's chat completions and embeddings have in common
    mistral_chat         its /v1/chat/completions
    mistral_embeddings   its /v1/embeddings
    mistral_schema       what its structured outputs refuse in a JSON Schema
    gemini_body          what the bodies of Gemini's models say, as Google reads JSON: checks and complaints
    gemini_generate      generateContent
    gemini_embeddings    embedContent
    gemini_schema        what `responseSchema` refuses, and the JSON Schema that it stands for
"""
