// Stands in for a server of language models in the benchmark: answers at once, in Ollama's form, in twenty parts.
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

const part =
  '{"model":"m","created_at":"2026-11-21T09:00:00.000000000Z","message":{"role":"assistant","content":"word "},"done":false}\n';
const last =
  '{"model":"m","message":{"role":"assistant","content":""},"done":true,"prompt_eval_count":9,"eval_count":20}\n';

const server = createServer((incoming, response) => {
  incoming.resume().on('end', () => {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' });
    let left = 20;
    const more = (): void => {
      if (left-- > 0) response.write(part, () => setImmediate(more));
      else response.end(last);
    };
    more();
  });
});
server.listen(0, '127.0.0.1', () => process.stdout.write(`${(server.address() as AddressInfo).port}\n`));
