"""Transports: one file a vendor's batch API; knows lines and batches, nothing of what the bodies in them say.

    openai_files     files and batches, as OpenAI has them and many hosts took over
    anthropic        message batches, the whole input in the create
    anthropic_lines  how their input and their results hold bodies and ids

    sdk              the calls of one account through an official SDK; each bounded, each made once
    ranges           a result file behind HTTP, from any byte on

Their faults are `Fault`s.  `keld.providers.part.Batches` and `Envelope` are the shapes they have.  A file is imported when an account connects, since
its SDK takes half a second.
"""
