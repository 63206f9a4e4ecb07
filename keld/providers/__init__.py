"""Providers: the services that answer requests.  A provider is a transport and a dialect.

The map of the package, from what the runner uses to what one kind of provider is made of.

    account      the address of a provider and where its key is found; never the key itself
    field        the fields of accounts, as they are written in an orchestrator's configuration
    base         the nouns between the runner and a provider: batches, outcomes, limits
    provider     one account at one provider: what the runner calls; turns faults into errors
    check        one finding about an account, the ledger or staging
    health       what would stop a job at one account, by calls that are not paid
    encoder      writes the request lines of one shard, and reads the result lines
    kinds        which kinds of providers there are, built in and from other packages
    presets/     what each built-in kind is made of, one kind a file
    part         the parts of a kind: Dialect, Envelope, Batches, Auth, Traits, Preset
    auth         tokens that expire, renewed in time and never within an event loop
    fault        what a status or a broken connection means; the same for every transport
    word         what a failed reply is called, for people
    page         lists of batches, page by page, and whether a list is complete
    download     a result file, complete and on disk
    line         blocks of result lines -> typed structs
    envelope     OpenAI's lines: one for a request, one for an answer; journals of fast lanes use them, too
    call         one request of a fast lane
    pack         many rows in one request of a fast lane, and the answer divided again
    engine       what a server of one's own says about itself: its models, its slots, its queue
    template     a request body as constant bytes around a row's own JSON
    log          which log records of other libraries are left out

    dialects/    one file for each family of models: body, schema subset, cache marks, answer, usage
    transports/  one file for each batch API: stage, create, get, list, cancel, results

A dialect is pure.  A transport only reports: it retries no create, writes no message for people and keeps no state.  It raises `Fault`.
How to add a kind of provider: docs/add-a-provider.md.
"""
