// A program that keeps the machine mildly busy in many ways, so that the counters that are compared move: files, forks,
// TCP and UDP over loopback, memory, and a core now and then. It ends with its parent's signal.
import { spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { closeSync, fsyncSync, openSync, readFileSync, writeSync } from 'node:fs';
import { connect, createServer } from 'node:net';

const [path = ''] = process.argv.slice(2);
const file = openSync(path, 'w');
const block = Buffer.alloc(256 * 1024, 'Fleetreel');

const echo = createServer((socket) => socket.pipe(socket)).listen(0, '127.0.0.1');
const receiver = createSocket('udp4').bind(0, '127.0.0.1');
const sender = createSocket('udp4');

setInterval(() => {
  writeSync(file, block, 0, block.length, 0);
  fsyncSync(file);
  readFileSync('/proc/self/maps');
  spawn('true', { stdio: 'ignore' });
}, 100);

setInterval(() => {
  const address = echo.address();
  if (address !== null && typeof address === 'object') {
    const socket = connect(address.port, '127.0.0.1', () => socket.end(block));
    socket.resume();
  }
  sender.send('to a port where somebody listens', receiver.address().port, '127.0.0.1');
  // Port 9 (discard): nobody does.
  sender.send('to a port where nobody does', 9, '127.0.0.1');
}, 50);

setInterval(() => {
  const until = performance.now() + 100;
  while (performance.now() < until) Buffer.alloc(64 * 1024, 1);
}, 500);

process.once('SIGTERM', () => {
  closeSync(file);
  process.exit(0);
});
console.log('stirring');
