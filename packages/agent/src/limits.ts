// Every bound of the agent: unit, reason, and how the bounds relate.
import assert from 'node:assert/strict';
import { intervalMilliseconds } from '@fleetreel/proto/agent_settings';

/** Frames sent and not yet acknowledged: enough to fill the round trip of a far server at 1 s intervals and a backlog. */
export const publishWindowFrames = 128;

/** How long a frame is kept beyond its acknowledgement: longer than the log's sync_interval of 1 s. */
export const keepAcknowledgedMilliseconds = 3000;

/** A file of the spool: about fifty frames. It is sent again as a whole when the agent ends while it is being sent. */
export const segmentBytesMax = 1024 * 1024;

/** A file of another session is left alone until nobody has written to it for so long: an agent that is displaced may still be ending. */
export const segmentQuietMilliseconds = 5000;

/** Without an acknowledgement for so long a frame goes to the spool, too: the slowest links answer sooner. */
export const overdueMilliseconds = 2000;

/**
 * Bytes of frames that a batch from the spool brings, before compression: more where the log answers at once, less where it takes
 * long, so that a live frame never waits long behind one.
 */
export const drainBatchBytes = { min: 64 * 1024, max: 1024 * 1024 } as const;

/** A batch that was answered within the first makes the next one larger; one that took longer than the second, smaller. */
export const drainAnswerMilliseconds = { quick: 250, slow: 1000 } as const;

/**
 * Bytes of frames a second that leave the spool, before compression: eight hours of 20 kB every 5 s in two minutes, for 1 % of a core.
 * A log that is busy is given as long a pause as it took to answer.
 */
export const drainBytesPerSecond = 1024 * 1024;

/** The longest that stopping waits for the spool: a disk that hangs must not keep the process. */
export const stopSpoolMilliseconds = 3000;

/** Runs of lost frames that are told of at a time: losses come in long runs, and each frame of an outage carries them all. */
export const lossRowsMax = 64;

/** How long an acknowledgement is waited for before the frame is sent again. */
export const acknowledgeMilliseconds = 5000;

/**
 * The same for the one frame that finds out when the log takes frames again, doubled each time up to the other: a cluster drops
 * what comes while it elects a leader, and nobody answers for it afterwards.
 */
export const probeMilliseconds = 1000;

/** How long a collector has to answer a claim of credentials: it asks NATS some things. */
export const enrollAnswerMilliseconds = 30_000;

/** How long a server has to answer when the agent connects. */
export const connectMilliseconds = 5000;

/** How often the server is asked whether it lives: one that is gone without a word is noticed at the third. */
export const pingMilliseconds = 10_000;

/** Pause between two looks at a key that has changed, milliseconds; a server of a cluster may be so far behind another. */
export const toldReadMilliseconds = 50;
/** How often a key is looked at though nothing is told of it, milliseconds on average. */
export const ownKeyLookMilliseconds = 60_000;
/** Looks at a key, with growing pauses, until it is as new as was told. */
export const toldReadsMax = 6;

/** Pauses after a failure to publish or to connect, doubled each time from the first to the last. */
export const publishRetryMilliseconds = { min: 250, max: 5000 } as const;

/** Pauses between tries to publish while the log takes nothing, doubled each time: a cluster elects a leader within seconds. */
export const publishAgainMilliseconds = { min: 250, max: 1000 } as const;

/** Pauses before a failed source is tried again, doubled each time. */
export const sourceRetryMilliseconds = { min: 1000, max: 60_000 } as const;

/** How often a source that is not here is looked for again: hardware and modules come and go. */
export const unavailableRetryMilliseconds = 60_000;

/** How often frames say how all sources stand while none changes. */
export const statusMilliseconds = 10_000;

/** The longest that a tick waits for its sources; never more than half of the interval. */
export const sourceAnswerMilliseconds = 1000;

/** The longest that `inventory` waits for a step of a source: a person is waiting, too. */
export const inventoryAnswerMilliseconds = 5000;

/** The longest that stopping waits for sources and the connection to close: what hangs ends with the process. */
export const closeMilliseconds = 1000;

/** The longest that stopping waits for acknowledgements. */
export const stopMilliseconds = 5000;

/** A reason is a label of the store: longer ones are cut. */
export const reasonCharactersMax = 1000;

/** Events that wait for the next tick: a fork bomb of a second, and no more. */
export const eventsWaitingMax = 5000;

/** Bytes of events in one frame, about: a frame has to fit into one message, with the rest of it. */
export const eventBytesPerFrameMax = 128 * 1024;

/** When the agent gives back memory that it does not need: once every source was read several times, and what is seldom was. */
export const releasePagesMilliseconds = { first: 60_000, again: 600_000 } as const;

/** How long functions that turn out to be hot are compiled. */
export const compileMilliseconds = 600_000;

/** How often the host description is looked at for changes. */
export const describeMilliseconds = 3_600_000;

/** How long after a tick the next one comes at least when the interval is changed: rates need some time between two samples. */
export const changedTickMilliseconds = 500;

/** How long an agent waits for its settings when it asks for them. */
export const settingsAnswerMilliseconds = 5000;

/** The pause after a description that could not be made: a console without one shows only the name. */
export const describeRetryMilliseconds = 60_000;

/** The longest that the description is waited for: it is asked from other programs, which may hang. */
export const describeAnswerMilliseconds = 20_000;

/** The longest that the names of graphics cards are waited for: the rest comes without them. */
export const graphicsMilliseconds = 10_000;

/** Bytes of what a machine says of itself. */
export const describeBytesMax = 64 * 1024;

/** How often a refused machine repeats its refusal. */
export const refusalRepeatMilliseconds = 3_600_000;

/** How often a refused machine looks whether the holder still lives: a clone may have been shut down. */
export const claimCheckMilliseconds = 60_000;

/** How long another machine has to answer that it lives. */
export const claimAnswerMilliseconds = 2000;

/** How long a sample waits for devices in /sys: less than half of the shortest interval, since late rows are dropped. */
export const devicePatienceMilliseconds = 300;

/** How long a device has to answer before the next is asked beside it: a battery behind a slow controller takes 100 ms. */
export const deviceAnswerMilliseconds = 500;

/** Devices that are asked at once: each may keep one of the four threads that the process has for files. */
export const devicesUnderWayMax = 2;

/** How often sensors and batteries are read: they change slowly, and asking some of them costs their controller's time. */
export const deviceSampleMilliseconds = 10_000;

/** How old the answer of a slow device may be: it was asked at one of the two samples before. */
export const deviceAnswerAgeMilliseconds = 25_000;

/** How many samples the limits of sensors are kept for: somebody may set others. */
export const deviceLimitsSamples = 60;

/** More power than any zone of a machine draws: a counter that would mean more was reset, and has not wrapped. */
export const zonePowerWattsMax = 10_000;

/** Processes that are looked at: each takes about a third of a kilobyte here, and their scan half a second of CPU time. */
export const processesMax = 32_768;

/** The share of one core that scanning processes may take on average: who takes more pauses for longer. */
export const processScanCoreShareMax = 0.01;

/** CPU time that scans may save up, a minute's share: thousands of processes that start at once are looked at without a pause. */
export const processScanSavedMilliseconds = 600;

/**
 * Descriptors that are kept of processes: reading 2,000 processes anew took 25 ms of CPU time, and 11 ms with descriptors kept; each
 * takes about a kilobyte of the kernel's memory.
 */
export const processDescriptorsMax = 4096;

/** The share of the descriptors that the agent may have which go to processes at most. */
export const processDescriptorsShareMax = 0.25;

/** Processes that are read before the rest of the agent has its turn: about three milliseconds. */
export const processesPerTurn = 200;

/** The longest that a tick waits for a scan; what takes longer goes on, and is part of the next tick. */
export const processScanMilliseconds = 300;

/** Starts and stops of processes that one scan records: other sources' events wait in the same place. */
export const processEventsPerScanMax = 200;

/** Identities of processes that are kept for whoever asks: more than run on most hosts. */
export const processIdentitiesMax = 8192;

/** After so long an identity is looked at again: a process can change its container and its command line. */
export const processIdentityMilliseconds = 300_000;

/** Bytes of a command line that are looked at: what tells programs apart comes first. */
export const commandBytesMax = 4096;

/** How long reading a command line may take: it takes microseconds, or hangs. */
export const commandMilliseconds = 250;

/** Command lines read at a time: one that hangs keeps one of the four threads that the process has for files. */
export const commandReadsMax = 1;

/** Rules in a file of classes: all are tried for each new process. */
export const classRulesMax = 1000;

/** Classes in a file: each is a row of the table in every frame. */
export const classesMax = 64;

/** Characters of a pattern: names of programs and parts of paths are shorter. */
export const classPatternCharactersMax = 256;
/** How often perf reads its counters: 0.4 ms of CPU time for the kernel's own on two processors, more on larger machines. */
export const perfIntervalMilliseconds = 10_000;

/** Intervals without a word after which perf is regarded as dead. */
export const perfSilentIntervals = 3;

/** How long after its last line an interval is complete: perf writes all of its lines at once. */
export const perfQuietMilliseconds = 50;

/** How long perf has to answer when it is asked what it can count. */
export const perfAnswerMilliseconds = 5000;

/** Characters that perf may write in answer to a question, or without a new line: it writes less than 10 KiB at once. */
export const perfOutputCharactersMax = 256 * 1024;

/** How long a container engine has to answer a question: one that takes longer hangs, or its host is drowning. */
export const engineAnswerMilliseconds = 5000;

/** The longest that opening waits for engines, so that the first frame has the names of containers: they answer in 50 ms. */
export const engineOpenMilliseconds = 400;

/** Pauses before an engine that went away is tried again, doubled each time. */
export const engineRetryMilliseconds = { min: 500, max: 30_000 } as const;

/** How often it is looked for sockets of engines that were not here: one is installed, a user signs in. */
export const engineSocketsMilliseconds = 60_000;

/** After a break an engine is asked for its events of this long before, too: what was on its way was lost. */
export const engineReplayMilliseconds = 5000;

/** Events that are remembered, so that none is told twice: more than come in the time that is asked for twice. */
export const engineEventsRemembered = 1000;

/** An event is told up to this much later than the description of the container says that it happened. */
export const engineSameMomentMilliseconds = 2000;

/** Questions that an engine is asked at the same time. */
export const engineInspectsAtOnce = 4;

/** An answer of an engine: 10,000 containers in a list are 10 MiB. */
export const engineAnswerBytesMax = 32 * 1024 * 1024;

/** A line of an engine's events: it holds all labels of a container. */
export const engineEventBytesMax = 1024 * 1024;

/** Containers of all engines that are known by name, stopped ones included. */
export const engineContainersMax = 10_000;

assert(keepAcknowledgedMilliseconds > 1000, 'a frame is kept longer than the log takes to sync');
assert(probeMilliseconds < acknowledgeMilliseconds);
assert(overdueMilliseconds < acknowledgeMilliseconds, 'a frame is on disk before it is given up to be sent again');
assert(drainAnswerMilliseconds.slow < acknowledgeMilliseconds);
assert(graphicsMilliseconds < describeAnswerMilliseconds, 'a description comes without what hangs');
assert(describeAnswerMilliseconds < describeRetryMilliseconds, 'a description is done before it is tried again');
assert(sourceRetryMilliseconds.min < sourceRetryMilliseconds.max);
assert(publishRetryMilliseconds.min < publishRetryMilliseconds.max);
assert(sourceAnswerMilliseconds * 2 >= intervalMilliseconds.min, 'half of the shortest interval is the tightest limit');
assert(changedTickMilliseconds <= intervalMilliseconds.min / 2, 'a changed interval is seen within itself');
assert(devicePatienceMilliseconds * 2 < intervalMilliseconds.min, 'devices leave the tick its time');
assert(deviceAnswerAgeMilliseconds > deviceSampleMilliseconds * 2);

// Servers of language models.

/** How often they are asked: as often as a host is sampled by default. */
export const llmPollMilliseconds = 5000;

/** How long a server has to answer: one that loads a model may be slow, and nothing waits for it. */
export const llmAnswerMilliseconds = 3000;

/** The longest that a sample waits for the answers: on loopback they take milliseconds; later ones come with the next sample. */
export const llmWaitMilliseconds = 250;

/** How often servers are looked for, and what changes seldom is asked for again. */
export const llmDiscoverMilliseconds = 60_000;

/** The least pause that ends a session: two rounds of asking, which see nothing shorter. */
export const llmSessionGapMilliseconds = 2 * llmPollMilliseconds;

/** Bytes of an answer: a page of vLLM with several engines has some 200 kB. */
export const llmAnswerBytesMax = 4 * 1024 * 1024;

/** Servers on one host: more than any has, fewer than what would cost. */
export const llmServersMax = 32;

/** Models of one server: names come from outside, and each is a row. */
export const llmModelsPerServerMax = 100;

/** Characters of a name that comes from a server: as long as the longest path of a file. */
export const nameCharactersMax = 4096;

/** Bytes of the head of a request or answer that the proxy follows: more than any server takes. */
export const httpHeadBytesMax = 64 * 1024;

/** Bytes of a line of an answer, or of one that is no stream, that are looked at: the context that Ollama sends along has most. */
export const measuredLineBytesMax = 1024 * 1024;

/** Bytes of a request in which the name of the model is looked for: it comes first, unless images do. */
export const measuredRequestBytesMax = 4 * 1024 * 1024;

/** Requests that a client may send before their answers, and be measured: hardly one sends a second. */
export const requestsPerConnectionMax = 100;

/** Connections of the proxy: each takes two descriptors and, while its client is slow, some 100 kB. */
export const proxyConnectionsMax = 4096;

/** How long the server behind the proxy has to take a connection: farther away than any in a rack. */
export const proxyConnectMilliseconds = 10_000;

/** How often a silent peer of the proxy is asked whether it lives: a model may think for minutes. */
export const proxyKeepAliveMilliseconds = 30_000;

/** How long answers that are coming may take when the proxy is stopped. */
export const proxyStopMilliseconds = 30_000;

/** How long a client has to take the error that its server is away. */
export const proxyLingerMilliseconds = 2000;

// Containers.

/**
 * Files of cgroups that are kept open: eleven for each of 350 containers; the kernel holds a page for each. Beyond, they are
 * opened for each reading, which takes four times as long.
 */
export const cgroupDescriptorsMax = 4096;

/** Containers in one frame: a row takes about 700 bytes, and a frame has to fit into one message of 1 MiB. */
export const containersMax = 1000;

/** Containers that have ended and that an engine still knows, the newest: what is beyond is no news. */
export const stoppedContainersMax = 100;

/** Folders of cgroups that are watched for new ones: a bound on the kernel's memory, and on the system's share of watches. */
export const cgroupWatchesMax = 256;

/** Folders of cgroups that a look for containers visits at most: more than any host has. */
export const cgroupFoldersMax = 20_000;

/** Folders of cgroups that are visited in one tick: 3 us each where nothing is below. */
export const cgroupFoldersPerTickMax = 400;

/** The pause between two looks for containers through all cgroups, where changes are told by the kernel, and where they are not. */
export const cgroupLookMilliseconds = { watched: 30_000, unwatched: 5000 } as const;

/**
 * What is read of containers in one tick besides their CPU time and memory in use, in readings of a file with one number,
 * 2 to 3 us: all of about 20 busy containers. With more the rest is read in turns. It keeps 200 busy ones below 3 ms.
 */
export const containerReadsPerTick = 400;

/** New containers that are read between ticks, for the case that they end before the next. */
export const youngContainersMax = 64;

/** How long a container is new, and the pauses between its readings: a twentieth of its age between these bounds. */
export const youngMilliseconds = 10_000;
export const youngPauseMilliseconds = { min: 20, max: 250 } as const;

/** How long the end that the kernel and the engine both tell of is one end. */
export const sameHappeningMilliseconds = 5000;

assert(cgroupLookMilliseconds.unwatched < cgroupLookMilliseconds.watched);
assert(cgroupFoldersPerTickMax < cgroupFoldersMax);

// GPUs.

/** How often they are asked: some 30 calls for each GPU of NVIDIA. */
export const gpuSampleMilliseconds = 5000;

/** After so many samples what changes seldom is read anew: names, limits, instances; each minute at most. */
export const gpuStaticRounds = 12;

/** GPUs of one driver: more than any machine has. */
export const gpusMax = 64;

/** Processes on one GPU. */
export const gpuProcessesMax = 10_000;

/** Errors that are taken from the driver at a time; more wait for the next sample. */
export const gpuEventsPerRoundMax = 100;

/** Clients of GPUs of the kernel's drivers: each is a file to read. */
export const drmClientsMax = 1000;

/** How long nvidia-smi has to answer, and the pause from one start to the next: it takes half a second of CPU time, and more. */
export const nvidiaSmiMilliseconds = { answer: 10_000, pause: 15_000 } as const;

/** Bytes of its answer: about 60 kB for each GPU. */
export const nvidiaSmiBytesMax = 16 * 1024 * 1024;

assert(nvidiaSmiMilliseconds.answer < nvidiaSmiMilliseconds.pause, 'one is gone before the next is started');

/** Stack of a call of a native library on another thread: as programs give their threads; only what is used takes memory. */
export const nativeStackBytes = 2 * 1024 * 1024;

/** The largest message of libvirt: its own bound (VIR_NET_MESSAGE_MAX). */
export const libvirtMessageBytesMax = 32 * 1024 * 1024;

/** How long libvirt has to accept a connection; it starts by its socket, and reads the state of all its domains first. */
export const libvirtConnectMilliseconds = 5000;

/** How long a tick waits for libvirt and QEMU: less than half of the shortest interval. What comes later serves the next tick. */
export const vmAnswerMilliseconds = 400;

/** Without an answer for so long, the connection to libvirt is given up and made anew. */
export const libvirtHangMilliseconds = 30_000;

/** How often libvirt, if it was away, and QEMU's processes are looked for: to look means to read the name of each process. */
export const vmDiscoverMilliseconds = 30_000;

/** A process this young may be waiting for its own tool to connect to its QMP socket first. */
export const qmpProcessAgeSeconds = 10;

/** The largest answer of QEMU that is read: a description of some hundred disks. */
export const qmpAnswerBytesMax = 8 * 1024 * 1024;
