"""Report: the job runs of a ledger as one page for people and as tables for BI and FinOps tools.

Below `environment`, above `spend`, which groups the money.  Reads the ledger only, which is O(shards): no row, prompt or answer comes in here, and
what goes out holds names, counts, instants and money.  The files, in the order of the data's way:

    book         what the ledger has of the job runs of a span of days
    overview     all figures of the page; pure
    day          what was paid, day by day, divided into groups
    deadline     deadlines kept and missed, each with the reason
    curve        how long lanes took, with the prior beside
    alternative  what the tokens of a job would have cost in another way
    audited      the result of an audit, to be shown beside
    page         the page: HTML without a script
    figure       the page's drawings: SVG
    tidy         two tables: cost lines and job runs
    focus        the cost lines as FOCUS rows
    file         the files of both, each complete or absent
    cell         a text as a CSV cell that no spreadsheet runs
"""
