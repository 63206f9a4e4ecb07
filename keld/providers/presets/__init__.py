"""Presets: the parts of each built-in kind of provider, one kind a file, each file's `PRESET`.

Below `provider`.  Data; a transport and its SDK are imported when an account connects.

    openai             api.openai.com; its dialects are those of every host of its shape
    anthropic          api.anthropic.com
    azure              one resource of Azure OpenAI
    gemini             generativelanguage.googleapis.com, the Gemini Developer API
    bedrock            Amazon Bedrock in one region
    vertex             Vertex AI in one project and one location
    mistral            api.mistral.ai
    openai_compatible  any host of OpenAI's shape without batches
    self_hosted        a server of one's own: vLLM, SGLang, TGI, Ollama, llama.cpp
    groq               api.groq.com
    together           api.together.xyz, the standard lane
    openrouter         openrouter.ai, the standard lane
    xai                api.x.ai, the standard lane
    fireworks          api.fireworks.ai, the standard lane
    deepinfra          api.deepinfra.com, the standard lane
    common             what several presets share
"""
