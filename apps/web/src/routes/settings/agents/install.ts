// What is pasted on a host to start its agent. The code comes by standard input: what is in a command line is seen by everybody
// on the machine. It may stay in the history of the shell, where it is worth nothing: it can be used once, within the hour.

/** A host's name, as the collector takes it. */
const hostName = /^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$/;
/** Nothing in an address means something to a shell. */
const natsServer = /^(?:(?:nats|tls):\/\/)?(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?$/;
const collectorAddress = /^https?:\/\/(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?\/?$/;
const loopback = /^(?:127(?:\.\d{1,3}){3}|\[::1\]|localhost)$/;

/** What is wrong with a host's name; empty where nothing is. */
export function hostProblem(host: string): string {
  if (host === '' || hostName.test(host)) return '';
  if (host.length > 128) return `At most 128 characters, and these are ${host.length}.`;
  if (/[^A-Za-z0-9._-]/.test(host)) return 'Letters, digits, “-”, “_” and “.” only.';
  return 'It begins and ends with a letter or a digit.';
}

/** What is wrong with the address of one or several servers of NATS. */
export function natsProblem(servers: string): string {
  return servers === '' || servers.split(',').every((server) => natsServer.test(server))
    ? ''
    : 'Write it as tls://nats.example.org:4222, several separated by commas.';
}

/** What is wrong with the address at which the host asks for its credentials. */
export function collectorProblem(address: string): string {
  if (address === '') return '';
  if (!collectorAddress.test(address) || !URL.canParse(address)) return 'Write it as https://fleet.example.org:7600.';
  return address.startsWith('http:') && !isLoopback(address)
    ? 'Over http:// whoever listens could use the code first: give an address with https://, or take the file.'
    : '';
}

/** Whether an address is one of this machine alone. */
export const isLoopback = (address: string): boolean =>
  URL.canParse(address) && loopback.test(new URL(address).hostname);

/** Commands that fetch the credentials for a code and start the agent. */
export const lineOfCode = ({ code, collector, nats }: { code: string; collector: string; nats: string }): string =>
  [
    `fleetreel-agent enroll --url ${collector.replace(/\/$/, '')} <<'END' &&`,
    code,
    'END',
    `fleetreel-agent run --nats-url ${nats}`,
  ].join('\n');

/** The command that starts the agent where the credentials are already. */
export const lineOfFile = ({ file, nats }: { file: string; nats: string }): string =>
  `fleetreel-agent run --nats-url ${nats} --nats-credentials ${file}`;
