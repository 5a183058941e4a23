// Compression of answers. Columns of numbers shrink to a fifth; what is small is faster as it is.
import { promisify } from 'node:util';
import { brotliCompress, constants, gzip, zstdCompress } from 'node:zlib';
import type { App } from '#api/http/app.ts';

const bytesMin = 1024;
const brotliOptions = { params: { [constants.BROTLI_PARAM_QUALITY]: 4 } };

/** In the order of preference. */
const encodings = {
  zstd: (text: string) => promisify(zstdCompress)(text),
  br: (text: string) => promisify(brotliCompress)(text, brotliOptions),
  gzip: (text: string) => promisify(gzip)(text),
};

export function compress(app: App): void {
  app.addHook('onSend', async (request, reply, payload) => {
    if (typeof payload !== 'string' || payload.length < bytesMin || reply.hasHeader('content-encoding')) return payload;
    reply.header('vary', 'accept-encoding');
    const accepted = String(request.headers['accept-encoding'] ?? '');
    for (const [name, encode] of Object.entries(encodings))
      if (new RegExp(`\\b${name}\\b(?!\\s*;\\s*q=0(?:\\.0+)?(?:,|$))`).test(accepted)) {
        reply.header('content-encoding', name);
        return encode(payload);
      }
    return payload;
  });
}
