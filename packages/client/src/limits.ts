// Every bound of the client: unit, and reason. What is an option has its default here.

/** Entries of one request: what the collector takes in one call is more, and a request of so many is no longer dear. */
export const batchCount = 1000;

/** Bytes of one request's body. */
export const batchBytes = 256 * 1024;

/** How long the first entry of a request waits for others: a chart shows seconds. */
export const flushMilliseconds = 1000;

/** Entries of a kind in memory: ten seconds at 10,000 a second. */
export const queueCount = 100_000;

/** Bytes of entries of a kind in memory, as they would be sent. */
export const queueBytes = 16 * 1024 * 1024;

/** How long the collector has to answer: it waits for the log, which may be electing a leader. */
export const requestMilliseconds = 10_000;

/** How long closing, and the end of the process, wait for what has not been acknowledged. */
export const closeMilliseconds = 5000;

/** The longest that a timer waits: one of more ends at once. */
export const timerMillisecondsMax = 2 ** 31 - 1;

/** Pauses after a failure, doubled each time from the first to the last; each is shortened by chance to as little as half. */
export const retryMilliseconds = { min: 250, max: 30_000 } as const;

/** The longest pause while closing: what is left of the time shall be used. */
export const closingRetryMilliseconds = 500;

/** The longest that a Retry-After is believed: a proxy that is wrong about it must not silence an application for a day. */
export const retryAfterMillisecondsMax = 300_000;

/** A collector that fails at one request so often would do so forever, and what comes after must not wait for it. */
export const internalErrorsMax = 5;

/** Lines that are taken out of a request because the collector refused them: each costs a request. Then all of it is dropped. */
export const refusedLinesMax = 10;

/** One kind of trouble is told of so often. */
export const tellMilliseconds = 60_000;

/** Kinds of trouble that are told apart; what a server answers is part of them. */
export const tellKindsMax = 64;

/** Bytes that a page which is being left may have under way: browsers refuse more than 64 KiB in all, and headers count. */
export const leavingBytes = 60 * 1024;

/** Bytes of an answer that says what is wrong: nobody needs more of a proxy's error page. */
export const problemBytesMax = 64 * 1024;

/** Characters of a text, as the collector takes them. */
export const textCharacters = 8192;

/** Metadata of an entry, as the collector takes them. */
export const metadataCount = 32;

/** Characters of a text among the metadata, as the collector takes them. */
export const metadataTextCharacters = 1024;

/** Entries of a page while finding: so many are in memory. */
export const pageCount = 1000;
