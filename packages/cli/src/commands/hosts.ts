import { Collector } from '#client.ts';
import type { Command } from '#command.ts';
import { formatAge, formatValue } from '#format.ts';
import type { Cell, Column } from '#output.ts';

const columns: readonly Column[] = [
  { title: 'HOST', align: 'left' },
  { title: 'STATUS', align: 'left' },
  { title: 'LAST SEEN', align: 'left' },
  { title: 'CPU', align: 'right' },
  { title: 'MEMORY', align: 'right' },
  { title: 'DISK', align: 'right' },
  { title: 'RECEIVE', align: 'right' },
  { title: 'TRANSMIT', align: 'right' },
  { title: 'LOAD', align: 'right' },
  { title: 'UPTIME', align: 'right' },
  { title: 'SYSTEM', align: 'left' },
];

export const hosts: Command = {
  usage: 'hosts',
  summary: 'All hosts with their status and headline values',
  arguments: [],
  flags: {},
  async run({ address, json }, output) {
    using collector = new Collector(address);
    const answer = await collector.hosts();
    if (json) return output.json(answer);
    if (answer.hosts.length === 0) return output.line('No host has reported yet.');
    const now = Date.now();
    const rows = answer.hosts.map(({ host, status, lastSeen, headline, description }): Cell[] => [
      { text: host },
      { text: status, tone: status === 'online' ? 'good' : 'bad' },
      { text: formatAge(lastSeen, now) },
      { text: formatValue(headline.cpuUsedPercent, 'percent') },
      { text: formatValue(headline.memoryUsedPercent, 'percent') },
      { text: formatValue(headline.diskUsedPercent, 'percent') },
      { text: formatValue(headline.receiveBytesPerSecond, 'bytes_per_second') },
      { text: formatValue(headline.transmitBytesPerSecond, 'bytes_per_second') },
      { text: headline.load1mCount === null ? '-' : headline.load1mCount.toFixed(2) },
      { text: formatValue(headline.uptimeSeconds, 'seconds') },
      { text: description?.os ?? '-' },
    ]);
    output.table(columns, rows);
    for (const { host, refusals, headline } of answer.hosts) {
      if (headline.failedSourcesCount)
        output.line(
          `${host}: ${headline.failedSourcesCount} sources fail; see fleetreel latest source --host ${host}`,
          'bad',
        );
      for (const { machineId, addresses, time, reason } of refusals)
        output.line(
          `${host}: machine ${machineId} (${addresses.join(', ')}) was refused ${formatAge(time, now)}: ${reason}`,
          'bad',
        );
    }
  },
};
