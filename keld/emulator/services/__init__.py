"""Services: the hosts that the emulator replaces.

One class a host, named in `kind`; `service` (one floor up) says what each of them gives.

    openai               api.openai.com: routes, realtime, errors, limits
    openai_files         its Files API
    openai_batches       its Batch API
    openai_input         what the validation of a batch finds in its input file
    openai_envelope      the lines of its input, output and error files
    openai_object        errors, files, batches and lists as it shows them
    openai_parameter     what the parameters of its calls must be
    openai_compatible    a host that speaks OpenAI's bodies and has neither files nor batches
    openai_hosts         hosts that copied OpenAI's API: Groq, Together, OpenRouter, xAI, Fireworks, DeepInfra
    self_hosted          an engine of one's own: the same, with messages, names, slots and a queue
    azure                a resource of Azure OpenAI, by both of its APIs: routes, key, token, errors
    azure_batches        its files, batches and deployments, as far as they differ from OpenAI's
    s3                   S3, over the emulator's buckets
    gcs                  Google Cloud Storage by its XML API
    gcs_json             Google Cloud Storage by its JSON API
    object_body          the body of an object as it is sent, in one piece or in parts
    object_xml           lists and errors of object stores as XML
    anthropic            api.anthropic.com: routes, realtime, errors, limits
    anthropic_batches    its message batches
    anthropic_input      the body of a batch's create
    anthropic_envelope   the lines of a batch's results
    anthropic_object     errors and message batches as it shows them
    gemini               generativelanguage.googleapis.com: routes, single calls, errors
    gemini_files         its Files API: resumable uploads, downloads
    gemini_batches       its batch mode
    gemini_envelope      the lines of its input files and of its files of responses
    gemini_object        errors, files and batches as it shows them
    mistral              api.mistral.ai: routes, files, realtime, errors, limits
    mistral_jobs         its batch jobs
    mistral_envelope     the lines of its input, output and error files
    mistral_object       errors, files and batch jobs as it shows them
    bedrock              Amazon Bedrock: routes, realtime, errors
    bedrock_jobs         its batch inference jobs
    bedrock_input        what the validation of a job finds in its input
    bedrock_envelope     the lines of a job's input and output
    bedrock_object       errors, jobs and manifests as it shows them
    bedrock_parameter    what the parameters of its calls must be
    google_page          a page of a list as Google's APIs give it
    vertex               aiplatform.googleapis.com: routes, single calls, errors
    vertex_jobs          its batch prediction jobs
    vertex_envelope      the lines of a job's input and output
    vertex_object        errors and jobs as it shows them, and a job as its create says it
"""
