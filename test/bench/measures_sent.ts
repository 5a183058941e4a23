// What applications write in the figure P11: one measure as a service reports them, and the same as prepared lines for the store.

/** Bodies that differ, so that no part of the way is quick for having seen the same before. */
const variants = 16;
const services = 20;

type Entry = { name: string; value: number; metadata: { service: string; instance: number; ok: boolean } };

const entry = (index: number): Entry => ({
  name: `checkout.${['latency_seconds', 'queue_length', 'orders', 'revenue'][index % 4]}`,
  value: ((index * 7919) % 104_729) / 128,
  metadata: { service: `service-${index % services}`, instance: index % 7, ok: index % 11 > 0 },
});

/** Bodies of so many measures each, one a line (NDJSON), without times. */
export function bodies(entries: number): Buffer[] {
  return Array.from({ length: variants }, (_, variant) =>
    Buffer.from(
      Array.from({ length: entries }, (_, index) => JSON.stringify(entry(variant * entries + index))).join('\n'),
    ),
  );
}

/** The same measures as the store's own lines, so many bodies of them; no two rows are one. */
export function lines(count: number, entries: number): Buffer[] {
  const from_us = Date.now() * 1000;
  return Array.from({ length: count }, (_, call) => {
    const rows = Array.from({ length: entries }, (_, index) => {
      const { name, value, metadata } = entry((call % variants) * entries + index);
      const head = `measure,tenant=default,source=bench,name=${name} call=${call}i,entry=${index}i,value==\x10`;
      const binary = Buffer.alloc(8);
      binary.writeDoubleLE(value);
      const text = JSON.stringify(metadata).replaceAll('"', String.raw`\"`);
      return [Buffer.from(head), binary, Buffer.from(`,metadata="${text}" ${from_us + call}t\n`)];
    });
    return Buffer.concat(rows.flat());
  });
}
