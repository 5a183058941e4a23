// Every bound of the collector's data path, with its unit in its name and its reason beside it.
import assert from 'node:assert';
import { frameBytesMax } from '@fleetreel/proto';

/** Messages pulled from the log at once. */
export const fetchMessagesMax = 1000;
/** Messages pulled at once at least, however large they are. */
export const fetchMessagesMin = 50;
/** Bytes that a pull should bring at most: by the largest message of late, it asks for fewer. */
export const fetchBytesTarget = 48 * 1024 * 1024;
/** Longest wait for a pull to fill, milliseconds: under light load it is the pause between two writes. */
export const fetchMilliseconds = 1000;
/** Messages written at once at most: what a collector reads within a second, held twice. */
export const batchMessagesMax = 5000;
/** Messages delivered and not yet acknowledged, over all collectors of a store: some that hold two batches each. */
export const ackPendingMax = 64_000;
/** After this a message that nobody acknowledged is delivered again, milliseconds. */
export const ackWaitMilliseconds = 15_000;
/** How often messages that wait for the store are reported as in progress, milliseconds: in time for two tries. */
export const workingMilliseconds = 5000;
/** Longest wait for the log to confirm the last acknowledgement of a batch, milliseconds. */
export const ackConfirmMilliseconds = 5000;

/** How long the log keeps the place of a rebuild that does not read: it was killed. */
export const rebuildIdleMilliseconds = 10 * 60_000;
/** Pauses between tries to read a log that can't be read, milliseconds: a cluster elects a leader within seconds. */
export const readAgainMilliseconds = { min: 100, max: 1000 } as const;

/** Body of one write, bytes: several frames of the greatest size; beyond, the batch is written in parts. */
export const requestBytesMax = 32 * 1024 * 1024;
/** Longest wait for the store to answer a write, milliseconds; then the same rows are sent again. */
export const requestMilliseconds = 30_000;
/** Shortest and longest pause before something that failed is tried again, milliseconds. */
export const retryMilliseconds = { min: 250, max: 10_000 } as const;

/** Rows of one frame: many times what a large host has, and few enough that they fit into one write. */
export const rowsPerFrameMax = 20_000;
/** Shortest and longest pause before NATS is connected to again, milliseconds: a server that restarts is back within seconds. */
export const reconnectMilliseconds = { min: 500, max: 10_000 } as const;
/** How far a frame's time may be ahead of this clock, milliseconds: beyond, the host's clock is wrong. */
export const futureMilliseconds = 10 * 60_000;
/** Rows that may come again, grown, of which is remembered which version is the newest, for each table: days of sessions, 10 MB. */
export const rowVersionsMax = 20_000;
/** Characters of a label; a longer one is cut and ends in a digest of the whole, so that it stays distinct. */
export const labelCharactersMax = 4096;

/** How long after its end a step is rolled up, milliseconds: by then the frames of live hosts are in. */
export const rollupGraceMilliseconds = 15_000;
/** How often rows are rolled up, milliseconds. */
export const rollupMilliseconds = 60_000;
/** How far before the newest roll-up a starting collector begins, milliseconds: late rows of the one before it. */
export const rollupRecentMilliseconds = 2 * 3_600_000;
/** Steps of one roll-up statement: an hour of minutes or two days of hours, so that none takes the store long. */
export const rollupStepsMax = { '1m': 60, '1h': 48 } as const;
/** Ranges of a table that wait to be rolled up; beyond, the nearest two become one. */
export const rollupRangesMax = 64;

/** Room for the headers of a dead letter, bytes: subject and reason. A message with less room is kept without its end. */
export const deadLetterHeaderBytesMax = 12 * 1024;
/** Characters of the reason of a dead letter: it may repeat names that are wrong for being long. */
export const deadReasonCharactersMax = 1000;
/** Dead letters that are read at once to list some, about: their headers alone. */
export const deadLettersWindow = 1000;
/** Dead letters that are looked at for one page of a list; the page says where to continue. */
export const deadLettersScannedMax = 10_000;
/** Dead letters of one page, and of one call that publishes them again or throws them away. */
export const deadLettersMax = 1000;

/** Characters of a piece of the page that Prometheus reads: between two pieces, other work is done. */
export const exportPieceCharacters = 64 * 1024;
/** Characters of a label on that page; a longer one is cut: Prometheus keeps each in memory. */
export const exportedLabelCharactersMax = 1024;
/** Pages of that kind that are sent at once: each takes a core while it is made. */
export const fleetPagesMax = 4;
/** Longest time to send one, milliseconds: a scrape's own time limit is shorter. */
export const fleetPageMilliseconds = 60_000;

/** How often the log's bounds are compared with what is stored, and suspended tables resumed until the store works, milliseconds. */
export const watchMilliseconds = 10_000;
/** How often the files of the certificate are looked at, milliseconds. */
export const certificateMilliseconds = 5000;
/** How long a code of an enrolment can be used, milliseconds: long enough to carry it to a machine. */
export const codeMilliseconds = 3_600_000;
/** Codes of a tenant that wait to be used: a rollout of as many machines at once. */
export const codesMax = 1000;
/** Codes of one address that may be refused within a time, and addresses of which that is known. None can be guessed; it costs a look-up. */
export const codeFailures = { count: 20, addresses: 10_000, milliseconds: 60_000 } as const;
/** How long revoked or expired credentials are listed, milliseconds. */
export const credentialsListedMilliseconds = 30 * 86_400_000;
/** How often it is seen to that NATS knows what is revoked, and what is over is removed, milliseconds: a server may have lost its accounts. */
export const enrolmentTidyMilliseconds = 10 * 60_000;
/** How long after they have expired revoked credentials are refused by name all the same, milliseconds: clocks may differ. */
export const revocationKeptMilliseconds = 86_400_000;
/**
 * Keys that NATS refuses by name, of all tenants, beyond which no credentials without an end are issued: their revocations stay for ever.
 * The account is one message with 95 bytes of each, and may have 1 MiB: as many can still be taken back.
 */
export const revocationsMax = 5000;
/** Tries to change an account that another collector changes at the same time. */
export const accountTriesMax = 5;
/** Refusals that the registry keeps of a host: the newest of each machine. */
export const refusalsMax = 10;
/** Longest time to finish what is in flight when stopping, milliseconds. */
export const stopMilliseconds = 10_000;
/** Longest wait for an answer of NATS or QuestDB that isn't data, milliseconds. */
export const answerMilliseconds = 5000;

assert(
  fetchMessagesMin * frameBytesMax <= 1.1 * fetchBytesTarget,
  'fetched messages of any size are within the target',
);
assert(
  ackPendingMax >= 4 * (batchMessagesMax + fetchMessagesMax),
  'two collectors may each hold a batch and gather the next',
);
assert(
  2 * workingMilliseconds < ackWaitMilliseconds,
  'messages that wait are reported before they are delivered again',
);

/** Live connections of a tenant that are open at once, over both faces: a console has one. */
export const liveConnectionsMax = 1000;
/** Replays and cursors of a tenant that are open at once, over both faces: each holds the buffers below. */
export const replaySessionsMax = 32;
/** Replays of a tenant that were made over HTTP and wait a minute for their reader. */
export const replaysWaitingMax = 32;
/** How long after its own time a frame may be stored and be played in its order all the same, milliseconds: a reader looks this far ahead. */
export const orderMilliseconds = 10_000;
/** How far a host's clock may be ahead for the same, milliseconds: a seek reads what was stored so long before it. */
export const aheadMilliseconds = 1000;
/** Bytes of frames that are looked ahead for their order; beyond, the earliest are played. */
export const orderBytesMax = 8 * 1024 * 1024;
/** Late batches that a replay knows of; beyond, its range has to be shorter. */
export const lateBatchesMax = 100_000;
/** Bytes of late batches kept open, uncompressed: as many as one host in fifty has of an hour. */
export const lateCacheBytesMax = 64 * 1024 * 1024;
/** Stretches of sequences that a replay remembers as played; beyond, those of the session that is longest known are forgotten. */
export const seenStretchesMax = 1_000_000;
/** Frames rebuilt from the store at once: some thousands of rows of each table. */
export const rebuiltFramesMax = 500;
/** Bytes of frames in one message to a reader: grpc-js is slow for each message. */
export const replayMessageBytes = 128 * 1024;
/** A replay that is paused, or at its end, and was told nothing for so long is ended, milliseconds. */
export const replayIdleMilliseconds = 3_600_000;
/** How far before its token a cursor reads what it has given already, milliseconds: the log's duplicate window. */
export const cursorOverlapMilliseconds = 2 * 60_000;

/** Longest time for a request to arrive as a whole, milliseconds: the largest body at 600 kbit/s. Nobody holds a connection without asking. */
export const requestArrivalMilliseconds = 60_000;
/** How often requests that are late are looked for, milliseconds. */
export const requestLateMilliseconds = 5000;

/** Passwords that are hashed at once: each takes a core for tens of milliseconds, and live data needs the others. */
export const passwordsAtOnceMax = 1;
/** Passwords that wait for that, of those who were right from there before and of the others each: some seconds. Beyond, who tried most is refused. */
export const passwordsWaitingMax = 32;
/** Passwords that wait from one network at most: others have their turn too. */
export const passwordsWaitingFromMax = 4;
/** Sign-ins that may fail before the next has to wait: of a user from one network, and of any from there. */
export const signInFailuresFree = { pair: 5, address: 20 } as const;
/** How long it has to wait then, doubled with each failure, milliseconds: a typing error is forgiven, a list of passwords takes years. */
export const signInBackoffMilliseconds = { min: 1000, max: 60_000 } as const;
/** Users with networks, and networks, of which failures, or that they were right, are remembered: 2 MB. */
export const signInPairsMax = 10_000;
/** Users of a tenant: all are in the memory of each collector. */
export const usersMax = 10_000;
/** API keys of a tenant, for the same reason. */
export const keysMax = 10_000;
/** How long a key is listed after it has expired, milliseconds: who wonders why a program is refused finds it. */
export const expiredKeyMilliseconds = 7 * 86_400_000;
/** One-time links of a tenant that nobody has used yet. */
export const linksMax = 1000;
/** Sessions of one user: beyond, the oldest ends. */
export const sessionsOfUserMax = 100;
/** How long one-time links are valid, milliseconds. */
export const linkMilliseconds = { first: 24 * 3_600_000, invite: 72 * 3_600_000, reset: 24 * 3_600_000 } as const;
/** How often it is written when sessions and keys were last used, milliseconds. */
export const usedMilliseconds = 60_000;
/** How often what has expired is removed, milliseconds. */
export const accessTidyMilliseconds = 10 * 60_000;
/** Targets of settings in a tenant: one for each host of the largest fleet. */
export const targetsMax = 10_000;
/** Bytes of what is wanted of one target: all of its settings with their longest values. */
export const targetBytesMax = 64 * 1024;
/** Settings of hosts that are written at once: a change for all is written in seconds, and other work is done beside it. */
export const pushedWritesMax = 32;
/** How often a change is tried anew because another collector, or somebody else, was faster. */
export const settingsTriesMax = 5;
/** How long it takes until what another collector has written is known here, milliseconds: a message of the log is here in one. */
export const settingsKnownMilliseconds = 20;
/**
 * How long after somebody else wrote an agent's settings they are compared with what is wanted, and how long after they were written last,
 * milliseconds: another collector may know something newer, and one of another version may never agree.
 */
export const pushedRepairMilliseconds = { first: 1000, again: 5000 } as const;

/** Measures or events of one call: some times what a client sends at once, and few enough that checking them takes 20 ms. */
export const customEntriesMax = 10_000;
/** Body of a call that writes them, bytes: that many entries of usual size; so much is held for each call. */
export const customBodyBytesMax = 4 * 1024 * 1024;
/** Bytes of the texts and metadata of a page of what they wrote: gRPC takes 4 MiB by default, and as JSON they may be six times as many. */
export const customPageBytesMax = 3 * 1024 * 1024;
/** Characters of the text of a measure or an event: a message, not a file. */
export const customTextCharactersMax = 8192;
/** Keys of the metadata of one entry. */
export const metadataKeysMax = 32;
/** Characters of a string among them. */
export const metadataCharactersMax = 1024;
/** Bytes of the columns of an entry in the log at most: two numbers and four places of texts. */
export const customRowBytes = 28;
/** Bytes of the entries of a call at most, as they are in the log: a character of metadata may become six. */
export const customCallBytesMax = 8 * customBodyBytesMax;
/** Bytes of a message of the log that holds them, about: NATS takes 1 MiB, and the greatest entry has 300 kB. */
export const customMessageBytes = 600 * 1024;
/** Entries of such a message: each falls into one write to the store, beside others. */
export const customMessageEntriesMax = 5000;
/** Entries of a call that goes into the log with others of the same writer: what has more is worth a message of its own. */
export const customGroupedEntriesMax = 100;
/** Bytes that wait for the log to have them; beyond, calls are refused: NATS is slow or away. */
export const customPendingBytesMax = 64 * 1024 * 1024;
/** For how long, at the rate that a key has, it may write at once what it did not write before. */
export const customBurstSeconds = 10;
/** How long a name counts after it was written last, at least; twice as long at most, milliseconds. */
export const customNamesMilliseconds = 3_600_000;
/** Keys of which it is known what they wrote of late; beyond, the one that is silent for longest begins anew. */
export const customOwnersMax = 10_000;
/** How long the audit trail is kept by the store, years: the questions that it answers come late. */
export const auditYears = 3;
/** Characters of the JSON of what was before or after a change in the audit trail. */
export const auditJsonCharactersMax = 64 * 1024;
/** Records of the audit trail that wait for the log; beyond, nothing is done of which there is to be one: 32 MB of the longest. */
export const auditWaitingMax = 256;

assert(
  customMessageBytes + 3 * customTextCharactersMax + metadataKeysMax * 6 * (metadataCharactersMax + 64) < frameBytesMax,
  'a message that has room takes the greatest entry',
);
assert(customMessageEntriesMax <= rowsPerFrameMax, 'a message of measures is no greater than a frame may be');
