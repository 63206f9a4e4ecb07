"""Audit: usage logs -> which calls nobody waits for, and what moving them to batches would save.

Beside the road: it reads what other tools logged, and ends where a Job begins.  It sends nothing, and keeps no prompt unless asked to.

    examine    logs -> findings: read, judged, priced
    log        a file of any format -> calls
    database   LiteLLM's spend logs from its Postgres
    line       the calls of a file of JSON
    sheet      the calls of a table, CSV or Parquet
    piece      which format a file is of, and the calls of a part of it
    stream     the bytes of a log as UTF-8
    document   JSON that is not one value a line
    repeat     files and calls that were read before
    format     one kind of log, as a table of names
    formats/   the kinds of logs that are read
    reader     rows and a table of names -> calls
    chunk      rows of a log as columns by name
    column     values as they are logged -> arrays
    record     the one form in which a call is looked at
    written    numbers and instants as people and spreadsheets write them
    span       spans of an OpenTelemetry document -> calls as flat rows
    body       what the body of a request says
    provider   the names that logs use -> the names of price lists
    group      calls of one service, job, model, operation and prompt
    clock      runs, their times, closed loops, pauses, chains
    evidence   what speaks for and against somebody waiting
    verdict    waits, does not wait, or ask the owner
    rule       what the owners know
    rate       what a model costs in each lane
    prior      what is assumed of a move
    history    what moves to batches were like, by the job runs of a ledger
    money      what moving a group is worth
    capacity   the same for machines of one's own
    finding    what an audit says
    handover   a Job for each group that does not wait
    worksheet  the questions to an owner
    view       an audit as tables for people
    page       an audit as one HTML page
    week       the calls of a group by hour of the week, as a drawing
"""

from keld.audit.examine import examine
from keld.audit.finding import Audit, Finding
from keld.audit.rule import Rules, rules_of
from keld.audit.verdict import Waits

__all__ = ["Audit", "Finding", "Rules", "Waits", "examine", "rules_of"]
