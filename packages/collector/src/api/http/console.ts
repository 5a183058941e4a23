// The console: static files, each page of it the same document.
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import staticFiles from '@fastify/static';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { App } from '#api/http/app.ts';
import { consolePolicy } from '#api/http/security.ts';

/** Where the built console is when no folder is named: beside the bundle, or in the workspace. */
const folders = ['./console/', '../../../../../apps/web/build/'].map((path) =>
  fileURLToPath(new URL(path, import.meta.url)),
);

/** Pages are the console's unless they are one of these. */
const notConsole = /^\/(?:api|docs|metrics|healthz|readyz|_app)(?:\/|\?|$)/;

/** Serves the files; returns what answers a path that is no file: true when the console took it. */
export async function serveConsole(
  app: App,
  named: string | undefined,
): Promise<(request: FastifyRequest, reply: FastifyReply) => Promise<boolean>> {
  const folder = named ?? folders.find((each) => existsSync(join(each, 'index.html'))) ?? folders[0] ?? '';
  if (existsSync(folder))
    await app.register(staticFiles, {
      root: folder,
      prefix: '/',
      index: false,
      redirect: false,
      preCompressed: true,
      cacheControl: false,
      schemaHide: true,
      setHeaders(reply, path) {
        const immutable = path.includes('/_app/immutable/');
        reply.header('cache-control', immutable ? 'public, max-age=31536000, immutable' : 'no-cache');
        if (path.includes('index.html')) reply.header('content-security-policy', consolePolicy);
      },
    });
  return async (request, reply) => {
    if (!['GET', 'HEAD'].includes(request.method) || notConsole.test(request.url)) return false;
    // A page, not a picture or script that is missing.
    const page = /\btext\/html\b/.test(request.headers.accept ?? '') || /^\/(?:\?|$)/.test(request.url);
    if (!page) return false;
    // Read at each visit, so that a console built while the collector runs is served.
    const text = await readFile(join(folder, 'index.html'), 'utf8').catch(() => undefined);
    reply.type('text/html; charset=utf-8').header('cache-control', 'no-cache');
    if (text === undefined) await reply.code(503).send(absentPage(folder));
    else await reply.header('content-security-policy', consolePolicy).send(text);
    return true;
  };
}

const absentPage = (folder: string): string => `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Fleetreel: no console</title>
<style>body{font:16px/1.5 system-ui;margin:4rem auto;max-width:40rem;padding:0 1rem;color-scheme:light dark}</style>
<h1>The console is not built</h1>
<p>There is no <code>index.html</code> in <code>${folder.replaceAll('&', '&amp;').replaceAll('<', '&lt;')}</code>.</p>
<p>Run <code>pnpm build</code>, or name the folder of a built console with the setting <code>console</code>. The API works without it: <a href="/docs">/docs</a>.</p>
</html>`;
