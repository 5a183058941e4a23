// QuestDB on this machine: found or fetched, configured, started.
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Service } from '#local/child.ts';
import {
  cacheFolder,
  findProgram,
  isAtLeast,
  isExecutable,
  longStep,
  type Machine,
  Missing,
  sha256,
  versionOf,
} from '#local/obtain.ts';
import { accepts } from '#local/port.ts';

export const questdbVersion = '9.3.4';
/** SHA-256 of the artifact `org.questdb:questdb` of this version, which is the whole server. */
const jarChecksum = '939bc53ab22f93dbaa6545143a6e7c536d4904c07b7f2d381e8eef10436be062';
const jarName = `questdb-${questdbVersion}.jar`;
const oldestJava = [17];
/** Where systems put their Java versions, one folder each. */
const javaFolders = ['/usr/lib/jvm', '/usr/java', '/opt/java', '/Library/Java/JavaVirtualMachines'];

/** A server that was found, with the Java that runs it, and where. */
export type QuestdbProgram = { java: string; jar: string; from: string };

/**
 * The server from the cache, else from the local Maven repository, else fetched by Maven into the cache; with a Java of
 * JAVA_HOME, PATH or the usual folders.
 * @throws Missing
 */
export async function findQuestdb(machine: Machine): Promise<QuestdbProgram> {
  const java = await findJava(machine);
  const folder = cacheFolder(machine);
  const cached = join(folder, jarName);
  if (existsSync(cached) && (await isGenuine(cached, machine)))
    return { java, jar: cached, from: `QuestDB ${questdbVersion} of the cache (${cached})` };

  const repository = join(machine.home, '.m2', 'repository', 'org', 'questdb', 'questdb', questdbVersion, jarName);
  if (existsSync(repository) && (await isGenuine(repository, machine)))
    return { java, jar: repository, from: `QuestDB ${questdbVersion} of the local Maven repository (${repository})` };

  const maven = findProgram(process.platform === 'win32' ? 'mvn.cmd' : 'mvn', machine);
  if (maven === undefined)
    throw new Missing(
      `QuestDB is missing: it is neither in ${folder} nor in ${join(machine.home, '.m2')}, and there is no Maven (mvn) to fetch it with.`,
      ['maven'],
    );
  const fresh = join(folder, `fetch.${process.pid}`);
  mkdirSync(fresh, { recursive: true });
  try {
    await longStep(
      `Fetching QuestDB ${questdbVersion} with Maven (${maven})`,
      [
        maven,
        '--batch-mode',
        'org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy',
        `-Dartifact=org.questdb:questdb:${questdbVersion}`,
        `-DoutputDirectory=${fresh}`,
      ],
      machine,
    );
    if (!(await isGenuine(join(fresh, jarName), machine)))
      throw new Error(
        `What Maven fetched as QuestDB ${questdbVersion} is not what was released: nothing of it was kept.`,
      );
    renameSync(join(fresh, jarName), cached);
  } finally {
    rmSync(fresh, { recursive: true, force: true });
  }
  return { java, jar: cached, from: `QuestDB ${questdbVersion}, fetched with Maven into the cache (${cached})` };
}

/** A Java that is new enough. @throws Missing */
export async function findJava(machine: Machine): Promise<string> {
  const { JAVA_HOME } = machine.env;
  const candidates = [
    ...(JAVA_HOME ? [join(JAVA_HOME, 'bin')] : []),
    ...(machine.env.PATH ?? '').split(process.platform === 'win32' ? ';' : ':').filter(Boolean),
    ...javaFolders.flatMap((parent) =>
      folders(parent).flatMap((name) => [join(parent, name, 'bin'), join(parent, name, 'Contents', 'Home', 'bin')]),
    ),
  ].map((folder) => join(folder, process.platform === 'win32' ? 'java.exe' : 'java'));
  const old: string[] = [];
  for (const java of new Set(candidates)) {
    if (!isExecutable(java)) continue;
    const version = await versionOf(java, '-version');
    if (version && isAtLeast(version, oldestJava)) return java;
    old.push(java);
  }
  throw new Missing(
    `QuestDB needs Java ${oldestJava[0]} or newer: none is in JAVA_HOME, on PATH or in ${javaFolders.slice(0, 3).join(', ')}` +
      `${old.length > 0 ? ` (too old: ${old.join(', ')})` : ''}.`,
    ['openjdk-17-jre-headless'],
  );
}

const folders = (parent: string): string[] => (existsSync(parent) ? readdirSync(parent).sort().reverse() : []);

async function isGenuine(jar: string, machine: Machine): Promise<boolean> {
  if ((await sha256(jar)) === jarChecksum) return true;
  machine.report(`${jar} is not QuestDB ${questdbVersion} as it was released, and is left alone.`);
  return false;
}

export type QuestdbOptions = {
  program: QuestdbProgram;
  httpPort: number;
  pgPort: number;
  /** Folder of the configuration and of the tables. */
  data: string;
  user: string;
  password: string;
  readUser: string;
  readPassword: string;
};

/** Writes the configuration and says how the server is started. */
export function questdbService(options: QuestdbOptions): Service {
  const { program, httpPort, pgPort, data, user, password } = options;
  mkdirSync(join(data, 'conf'), { recursive: true, mode: 0o700 });
  // Rewritten at every start: ports and passwords are the launcher's.
  writeFileSync(join(data, 'conf', 'server.conf'), configuration(options), { mode: 0o600 });
  return {
    name: 'QuestDB',
    command: program.java,
    args: [
      '-Xms64m',
      '-Xmx256m',
      '-XX:+UseSerialGC',
      '-XX:+ExitOnOutOfMemoryError',
      '--add-exports=java.base/jdk.internal.math=io.questdb',
      '-p',
      program.jar,
      '-m',
      'io.questdb/io.questdb.ServerMain',
      '-d',
      data,
    ],
    env: { QDB_LOG_W_STDOUT_LEVEL: 'CRITICAL,ERROR' },
    async ready(signal) {
      const answer = await query({ httpUrl: `http://127.0.0.1:${httpPort}`, user, password }, 'SELECT 1', signal).catch(
        () => undefined,
      );
      return answer !== undefined && (await accepts('127.0.0.1', pgPort));
    },
  };
}

function configuration(options: QuestdbOptions): string {
  return [
    `http.net.bind.to=127.0.0.1:${options.httpPort}`,
    `http.user=${options.user}`,
    `http.password=${options.password}`,
    'http.health.check.authentication.required=false',
    // The health page of its own port is not needed beside the one of the first.
    'http.min.enabled=false',
    `pg.net.bind.to=127.0.0.1:${options.pgPort}`,
    `pg.user=${options.user}`,
    `pg.password=${options.password}`,
    'pg.readonly.user.enabled=true',
    `pg.readonly.user=${options.readUser}`,
    `pg.readonly.password=${options.readPassword}`,
    'line.tcp.enabled=false',
    // The tables are the catalogue's: a misspelt name is an error and never a new column.
    'line.auto.create.new.tables=false',
    'line.auto.create.new.columns=false',
    // The defaults take 16 MiB of disk for each column.
    'cairo.writer.data.append.page.size=256k',
    'cairo.o3.column.memory.size=256k',
    'cairo.wal.writer.data.append.page.size=128k',
    'cairo.writer.data.index.value.append.page.size=256k',
    'cairo.writer.data.index.key.append.page.size=64k',
    // One query must not take the machine's memory; it ends with an error instead.
    'ram.usage.limit.bytes=2G',
    'telemetry.enabled=false',
    '',
  ].join('\n');
}

/** Runs one statement over HTTP as the writing user. @throws Error with the server's sentence. */
export async function query(
  { httpUrl, user, password }: { httpUrl: string; user: string; password: string },
  sql: string,
  signal: AbortSignal = AbortSignal.timeout(30_000),
): Promise<{ columns: string[]; rows: unknown[][] }> {
  const response = await fetch(`${httpUrl}/exec?query=${encodeURIComponent(sql)}`, {
    headers: { authorization: `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}` },
    signal,
  });
  const body = (await response.json()) as { error?: string; columns?: { name: string }[]; dataset?: unknown[][] };
  if (!response.ok || body.error !== undefined)
    throw new Error(`QuestDB refused (${response.status}): ${body.error ?? 'no reason given'}: ${sql}`);
  return { columns: body.columns?.map(({ name }) => name) ?? [], rows: body.dataset ?? [] };
}
