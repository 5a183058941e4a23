// What is pasted on a host to start its agent. The credentials come by standard input: what is in a command line is seen by
// everybody on the machine.

/** Where the credentials are kept on the host. */
const path = '/etc/fleetreel/nats.creds';

/**
 * Commands for a shell of root.
 * @param credentials content of the credentials file
 * @param address of the machine that NATS runs on, as far as the console knows
 */
export function installLine(credentials: string, address: string): string {
  const server = address.includes(':') && !address.startsWith('[') ? `[${address}]` : address;
  return [
    `(umask 077; mkdir -p /etc/fleetreel; cat > ${path}) <<'END'`,
    credentials.trimEnd(),
    'END',
    `fleetreel-agent run --nats-url nats://${server}:4222 --nats-credentials ${path}`,
  ].join('\n');
}
