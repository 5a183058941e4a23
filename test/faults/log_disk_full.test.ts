// nats-server whose disk was full takes nothing more until it is started again: the launcher does it once there is room.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { findNats, natsIllness, natsService } from '@fleetreel/deploy/local/nats';
import { thisMachine } from '@fleetreel/deploy/local/obtain';
import { freePort } from '@fleetreel/deploy/local/port';
import { Supervisor } from '@fleetreel/deploy/local/supervisor';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { expect, test } from 'vitest';
import { Disk } from '../servers/disk.ts';
import { eventually } from '../stack.ts';

const MiB = 1024 ** 2;

test.runIf(process.getuid?.() === 0 && process.platform === 'linux')(
  'nats-server is started again once its disk has room, with the reason, and has what it had',
  { timeout: 120_000 },
  async () => {
    using disk = Disk.make(256 * MiB);
    const [port, monitorPort] = [await freePort(), await freePort()];
    const data = join(disk.folder, 'nats');
    const folder = mkdtempSync(join(tmpdir(), 'fleetreel-full-'));
    const said: string[] = [];
    const supervisor = new Supervisor(folder, (line) => said.push(line));
    const program = await findNats(thisMachine());
    await supervisor.start({
      ...natsService({ program, port, monitorPort, data }),
      illness: (signal) => natsIllness(monitorPort, data, signal),
      readyWithin: 20_000,
      stopWithin: 1500,
      notable: () => undefined,
    });
    const connection = await connect({
      servers: `nats://127.0.0.1:${port}`,
      maxReconnectAttempts: -1,
      reconnectTimeWait: 100,
    });
    try {
      const manager = await jetstreamManager(connection);
      await manager.streams.add({ name: 'LOG', subjects: ['log'] });
      const log = jetstream(connection, { timeout: 2000 });
      let taken = 0;
      const publish = async () => {
        await log.publish('log', new Uint8Array(64 * 1024));
        taken++;
      };
      await publish();
      const health = () => natsIllness(monitorPort, data, AbortSignal.timeout(5000));
      expect(await health()).toBeUndefined();

      disk.fill();
      // What was allocated before is written first.
      await expect(
        (async () => {
          for (;;) await publish();
        })(),
      ).rejects.toThrow();
      // As long as it is full, nothing would be better.
      expect(await health()).toBeUndefined();
      const before = supervisor.pid('nats-server');
      disk.free();
      const has = (line: RegExp) =>
        eventually(String(line), 40_000, () => said.some((one) => line.test(one)) || undefined);
      await has(/^nats-server has to be started again: .*write error: .*no space left on device/);
      await has(/^nats-server runs again\.$/);
      expect(supervisor.pid('nats-server')).not.toBe(before);
      for (const count = taken; taken === count; ) await publish().catch(() => pause(100));
      expect((await manager.streams.info('LOG')).state.messages).toBe(taken);
      expect(said.filter((line) => line.includes('has to be started again'))).toHaveLength(1);
    } finally {
      await connection.close();
      await supervisor.stop(['nats-server']);
      rmSync(folder, { recursive: true });
    }
  },
);
