"""Providers: who answers, and how they are spoken to.  A provider is a transport and a dialect.

The map of the package; above the line is what the runner sees, below it what one kind of provider is made of.

    account      where a provider is, and whose key it takes; never the key itself
    base         the nouns between the runner and a provider: batches, outcomes, limits
    provider     one account at one provider: what the runner asks, with every fault in words
    encoder      the request lines of one shard, and the reader of what comes back
    kinds        which kinds of providers there are, built in and from other packages
    presets      what each built-in kind is made of
    part         the parts of a kind: Dialect, Envelope, Batches, Traits, Preset
    fault        what a status or a broken connection means; the same for every transport
    page         lists of batches, page by page, and what their end proves
    download     a result file, whole and durable
    line         blocks of result lines -> typed structs
    envelope     one line a request and one line an answer; the shape that journals of fast lanes have, too
    call         one request of a fast lane
    template     a request body as constant bytes around a row's own words
    log          which log records of the SDKs are left out

    dialects/    one file a family of models: body, schema subset, cache marks, answer, usage
    transports/  one file a vendor's batch API: stage, create, look, list, cancel, results

A dialect is pure.  A transport reports and decides nothing: no retry of a create, no words for people, no state.  Its faults are `Fault`s.
Adding a kind of provider: docs/add-a-provider.md.
"""
