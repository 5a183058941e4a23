// A server with an empty handler, the yardstick of calls that write: `node empty.bench.ts` prints its port. It reads the body of a
// call as the API does, and nothing else of it.
import fastify from 'fastify';

const app = fastify({ forceCloseConnections: true });
app.addContentTypeParser('application/x-ndjson', { parseAs: 'buffer' }, (_, content, done) => done(null, content));
app.post('/api/v1/measure', async () => ({ accepted: 1, duplicate: false }));
const address = await app.listen({ host: '127.0.0.1', port: 0 });
process.stdout.write(`${new URL(address).port}\n`);
process.once('SIGTERM', () => void app.close());
