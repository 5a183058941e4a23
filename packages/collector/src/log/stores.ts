// The stores that read the log: each is a durable consumer. One that nobody reads any more never holds the log up, but is noise.
import type { ConsumerInfo } from '@nats-io/jetstream';
import type { Log } from '#log/connect.ts';
import { consumerName, streamName } from '#log/stream.ts';

/** A store, by what the log knows of it. */
export type StoreState = {
  name: string;
  /** Messages that it has not stored yet. */
  behind: number;
  /** Whether a collector reads for it now. */
  isRead: boolean;
  /** When it was last given a message, RFC 3339; undefined when it never was. */
  lastRead: string | undefined;
};

/** How often, and after which pause, it is looked whether a collector waits for messages: between two pulls none does. */
const looks = 6;
const lookMilliseconds = 250;

/** All stores of the log, in the order of their names. */
export async function listStores(log: Log, pause: (milliseconds: number) => Promise<void>): Promise<StoreState[]> {
  const stores = new Map<string, StoreState>();
  for (let look = 0; look < looks; look++) {
    if (look > 0) await pause(lookMilliseconds);
    for await (const info of log.manager.consumers.list(streamName)) {
      const name = storeOf(info);
      if (name === undefined) continue;
      const isRead = info.num_waiting > 0 || stores.get(name)?.isRead === true;
      stores.set(name, {
        name,
        behind: info.num_pending + info.num_ack_pending,
        isRead,
        // JetStream says it in RFC 3339, whatever the client's types say.
        lastRead: info.delivered.last_active === undefined ? undefined : String(info.delivered.last_active),
      });
    }
  }
  return [...stores.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** Forgets how far a store has read: the log then keeps nothing of it. Its rows stay in QuestDB. */
export async function removeStore({ manager }: Log, name: string): Promise<void> {
  await manager.consumers.delete(streamName, consumerName(name));
}

function storeOf({ name }: ConsumerInfo): string | undefined {
  const begin = consumerName('');
  return name.startsWith(begin) ? name.slice(begin.length) : undefined;
}
