// The faults that frames survive. Each is made under load, and mended; then frames have to be stored again.
import { setTimeout as pause } from 'node:timers/promises';
import { eventually } from '../stack.ts';
import type { Ground } from './ground.ts';
import { Link } from './link.ts';

const second = 1000;
const hour = 3600 * second;

/** How long a fault lasts: long enough to be felt, or as long as an operator may have to bear it. */
export type Length = 'short' | 'long';

export type Fault = {
  /** Whether it is a moment that is to be hit: tried many times. */
  isMoment: boolean;
  make: (ground: Ground, length: Length) => Promise<void>;
};

/** Reasons for which the faults may put frames aside: what says to be an hour ahead is not believed. */
export const mayDie = /in the future/;

/** A moment within a few ticks, so that it hits anything. */
const someTime = ({ random }: Ground) => pause(random.between(0, 2 * second));

export const faults: Readonly<Record<string, Fault>> = {
  'kill-agent': {
    isMoment: true,
    async make(ground) {
      const process = ground.random.below(ground.fleet.processes);
      await someTime(ground);
      await ground.fleet.kill(process);
      await someTime(ground);
      await ground.fleet.startProcess(process);
    },
  },
  'kill-collector': {
    isMoment: true,
    async make(ground) {
      await someTime(ground);
      await ground.stack.collector.kill();
      await someTime(ground);
      await ground.stack.startCollector();
    },
  },
  'kill-nats': {
    isMoment: true,
    async make(ground) {
      await someTime(ground);
      await ground.stack.nats.kill();
      await someTime(ground);
      await ground.stack.nats.restart();
      await ground.stack.ready();
    },
  },
  'kill-questdb': {
    isMoment: true,
    async make(ground) {
      await someTime(ground);
      await ground.stack.questdb.kill();
      await someTime(ground);
      await ground.stack.questdb.restart();
      await ground.stack.ready();
    },
  },
  // nats-server's answer has been given, and is not on its disk: the agents have to send those frames again, however long the
  // server was away.
  'power-loss-of-nats': {
    isMoment: true,
    async make({ stack, disks, random }, length) {
      await pause(random.between(0, 2 * second));
      disks.nats.losePower();
      await stack.nats.kill();
      disks.nats.restorePower();
      await pause(random.between(0, length === 'short' ? 5 * second : 15 * second));
      await stack.nats.restart();
      await stack.ready();
    },
  },
  'collector-killed-before-acknowledging': {
    isMoment: true,
    async make(ground) {
      const { stack } = ground;
      await stack.collector.stop();
      await using link = await Link.open({ host: '127.0.0.1', port: stack.nats.port });
      await stack.startCollector(link.url);
      await someTime(ground);
      // The store has the rows; the log never hears of it.
      await link.hold('$JS.ACK.');
      await stack.collector.kill();
      await stack.startCollector();
    },
  },
  'freeze-questdb': {
    isMoment: false,
    async make({ stack: { questdb } }, length) {
      questdb.freeze();
      await pause(length === 'short' ? 10 * second : 60 * second);
      questdb.thaw();
    },
  },
  'cut-network': {
    isMoment: false,
    async make(ground, length) {
      ground.cut();
      await pause(length === 'short' ? 10 * second : 300 * second);
      ground.join();
    },
  },
  'slow-link': {
    isMoment: false,
    async make(ground, length) {
      ground.losePackets(0.05);
      ground.link.delay_ms = 200;
      await pause(length === 'short' ? 10 * second : 120 * second);
      ground.link.delay_ms = 0;
      ground.losePacketsNoMore();
    },
  },
  'spool-disk-full': {
    isMoment: false,
    async make(ground, length) {
      const { fleet, disks } = ground;
      disks.spool.fill();
      ground.cut();
      // The agents have to live on, and to say which folder is meant.
      const names = (line: string) => line.includes(disks.spool.folder) && /ENOSPC|no space/i.test(line);
      await eventually('an error that names the spool', 60 * second, () =>
        Array.from({ length: fleet.processes }, (_, index) => index).every((index) =>
          fleet.program(index).lines.some(names),
        )
          ? true
          : undefined,
      );
      await pause(length === 'short' ? 2 * second : 30 * second);
      ground.join();
      await pause(2 * second);
      disks.spool.free();
    },
  },
  // nats-server 2.15 lives on, says by its health page which file it could not write, and takes nothing more until it is
  // started again, which whoever watches that page does.
  'log-disk-full': {
    isMoment: false,
    async make({ stack, disks }, length) {
      disks.nats.fill();
      await eventually('a health page that names the file', 60 * second, async () => {
        const health = await (await fetch(`${stack.nats.monitorUrl}/healthz`)).text();
        return health.includes(disks.nats.folder) && health.includes('no space left') ? true : undefined;
      });
      if (length === 'long') await pause(60 * second);
      disks.nats.free();
      await stack.nats.restart();
      await stack.ready();
    },
  },
  // QuestDB refuses writes, or takes them and suspends the tables that it can't write.
  'store-disk-full': {
    isMoment: false,
    async make({ stack, disks }, length) {
      const from = stack.collector.lines.length;
      disks.questdb.fill();
      // It goes on within the files that it made larger before, some of them for minutes.
      await eventually('an error of the store that says why', 5 * 60 * second, () =>
        stack.collector.lines.slice(from).some((line) => /errno: 28|No space left|bulk update failed/.test(line))
          ? true
          : undefined,
      );
      await pause(length === 'short' ? 5 * second : 60 * second);
      disks.questdb.free();
    },
  },
  'clock-ahead': {
    isMoment: false,
    make: (ground, length) => wrongClock(ground, length, hour),
  },
  'clock-behind': {
    isMoment: false,
    make: (ground, length) => wrongClock(ground, length, -hour),
  },
  // The same milliseconds come again, with ticks in them: their frames must not fall on those of before.
  'clock-set-back': {
    isMoment: false,
    make: (ground, length) => wrongClock(ground, length, length === 'short' ? -5 * second : -60 * second),
  },
};

/** The clock of some hosts jumps, and jumps back. */
async function wrongClock({ fleet, random }: Ground, length: Length, offset_ms: number): Promise<void> {
  const process = random.below(fleet.processes);
  fleet.setClock(process, offset_ms);
  await pause(length === 'short' ? 5 * second : 60 * second);
  fleet.setClock(process, 0);
}
