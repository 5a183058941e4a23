import { root } from '#catalog.ts';
import { FrameError, fromHex, toHex } from '#frame.ts';
import type { HostDescription, HostRefusal } from '#gen/tables.ts';

const description = root.lookupType('fleetreel.v1.HostDescription');
const refusal = root.lookupType('fleetreel.v1.HostRefusal');
const plain = { longs: Number, defaults: true, arrays: true, objects: true } as const;

export function encodeHostDescription(host: HostDescription): Uint8Array {
  return description.encode({ ...host, session: fromHex(host.session) }).finish();
}

/** @throws FrameError */
export function decodeHostDescription(bytes: Uint8Array): HostDescription {
  const message = attempt('host description', () => description.decode(bytes));
  return { ...(description.toObject(message, plain) as HostDescription), session: toHex(message.session) };
}

export function encodeHostRefusal(host: HostRefusal): Uint8Array {
  return refusal.encode(host).finish();
}

/** @throws FrameError */
export function decodeHostRefusal(bytes: Uint8Array): HostRefusal {
  return refusal.toObject(
    attempt('host refusal', () => refusal.decode(bytes)),
    plain,
  ) as HostRefusal;
}

function attempt<T>(what: string, decode: () => T): T & Record<string, unknown> {
  try {
    return decode() as T & Record<string, unknown>;
  } catch (cause) {
    throw new FrameError(`not a ${what}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}
