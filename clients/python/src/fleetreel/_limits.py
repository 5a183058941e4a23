"""Every bound of the client: unit, and reason. What is an option has its default here."""

# Entries of one request: what the collector takes in one call is more, and a request of so many is no longer dear.
BATCH_COUNT = 1000

# Bytes of one request's body.
BATCH_BYTES = 256 * 1024

# How long the first entry of a request waits for others: a chart shows seconds.
FLUSH_SECONDS = 1.0

# Entries of a kind in memory: ten seconds at 10,000 a second.
QUEUE_COUNT = 100_000

# Bytes of entries of a kind in memory, as they would be sent.
QUEUE_BYTES = 16 * 1024 * 1024

# How long the collector has to answer: it waits for the log, which may be electing a leader.
REQUEST_SECONDS = 10.0

# How long closing, and the end of the process, wait for what has not been acknowledged.
CLOSE_SECONDS = 5.0

# Pauses after a failure, doubled each time from the first to the last; each is shortened by chance to as little as half.
RETRY_SECONDS_MIN = 0.25
RETRY_SECONDS_MAX = 30.0

# The longest pause while closing: what is left of the time shall be used.
CLOSING_RETRY_SECONDS = 0.5

# The longest that a Retry-After is believed: a proxy that is wrong about it must not silence an application for a day.
RETRY_AFTER_SECONDS_MAX = 300.0

# A collector that fails at one request so often would do so forever, and what comes after must not wait for it.
INTERNAL_ERRORS_MAX = 5

# Lines that are taken out of a request because the collector refused them: each costs a request. Then all of it is dropped.
REFUSED_LINES_MAX = 10

# One kind of trouble is told of so often.
TELL_SECONDS = 60.0

# Kinds of trouble that are told apart; what a server answers is part of them.
TELL_KINDS_MAX = 64

# Bytes of an answer that says what is wrong: nobody needs more of a proxy's error page.
PROBLEM_BYTES_MAX = 64 * 1024

# Entries of a page while finding: so many are in memory.
PAGE_COUNT = 1000

# Characters of a text, as the collector takes them.
TEXT_CHARACTERS = 8192

# Metadata of an entry, as the collector takes them.
METADATA_COUNT = 32

# Characters of a text among the metadata, as the collector takes them.
METADATA_TEXT_CHARACTERS = 1024
