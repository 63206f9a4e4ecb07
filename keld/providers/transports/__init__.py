"""Transports: one file for each batch API; they know lines and batches, and nothing of the bodies in the lines.

    openai_files     files and batches of OpenAI, which many hosts copied
    anthropic        message batches of Anthropic, with the whole input in the create
    anthropic_lines  the lines of their input and of their results
    bedrock          batch inference jobs of Amazon Bedrock, over a bucket of S3
    bedrock_lines    the lines of their input and of their output
    bedrock_auth     signatures, API keys and errors of AWS
    mistral          batch jobs of Mistral
    mistral_lines    the lines of their input and of their results
    gemini           batch mode of Gemini, with requests and responses in files
    gemini_lines     the lines of these files

    vertex           batch prediction jobs of Vertex AI, over a bucket of Cloud Storage
    vertex_lines     the lines of their input and of their output
    vertex_auth      tokens of Google Cloud, and its errors

    stored           inputs and results as objects in the user's own bucket
    rest             the calls of one account to a host of JSON objects, without an SDK; each with a time limit, each made once
    ambient          headers that the environment adds for a vendor's SDK
    azure_auth       the key of an Azure resource, or a token of Entra
    ranges           a result file over HTTP, from any byte on

They raise `Fault` and implement `keld.providers.part.Batches` and `Envelope`.  A file is imported when an account connects, since
the library of its cloud may take half a second.
"""
