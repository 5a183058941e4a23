// Which hosts are of a partition: it is computed from the subject, so every collector comes to the same.

/** One of several equal parts of all hosts; `number` is 1 to `of`. */
export type Partition = { number: number; of: number };

/** All hosts. */
export const whole: Partition = { number: 1, of: 1 };

/**
 * Whether a host belongs to a partition. Tenant and host as they are in subjects. The part, counted from 0, is what
 * nats-server's `{{partition(N,1,3)}}` gives for `fr.v1.*.*.*`: FNV-1a of both tokens, 32 bits, modulo N. So of twice as many
 * partitions, two hold what one held before.
 */
export function isIn({ number, of }: Partition, tenant: string, host: string): boolean {
  return of === 1 || hash(tenant + host) % of === number - 1;
}

/** Tokens that can be names are ASCII: a character is a byte. */
function hash(text: string): number {
  let value = 0x811c_9dc5;
  for (let place = 0; place < text.length; place++) value = Math.imul(value ^ text.charCodeAt(place), 0x0100_0193);
  return value >>> 0;
}
