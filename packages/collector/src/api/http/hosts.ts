import type { HostDescription, HostRefusal } from '@fleetreel/proto';
import { unknown } from '@fleetreel/proto/errors';
import { type Description, Host, Hosts, type Refusal } from '@fleetreel/proto/http';
import Type from 'typebox';
import { forgetHost } from '#api/audit.ts';
import type { FaceParts } from '#api/faces.ts';
import { type App, json, problem } from '#api/http/app.ts';
import type { HostState } from '#query/hosts.ts';

const params = Type.Object({
  host: Type.String({ description: "A host's name, dots written as underscores", examples: ['web-1'] }),
});

export function hostRoutes(app: App, { rooms }: FaceParts): void {
  const tags = ['hosts'];
  const querystring = Type.Object({});
  app.get(
    '/hosts',
    {
      config: { scope: 'read' },
      schema: {
        summary: 'All hosts with their status',
        tags,
        querystring,
        response: { 200: json('Hosts by name', Hosts), ...problem(400, 503) },
      },
    },
    ({ identity: { tenant } }) => ({ hosts: rooms().query.hosts.list(tenant).map(hostJson) }),
  );
  app.get<{ Params: { host: string } }>(
    '/hosts/:host',
    {
      config: { scope: 'read' },
      schema: {
        summary: 'One host',
        tags,
        params,
        querystring,
        response: { 200: json('The host', Host), ...problem(400, 404, 503) },
      },
    },
    ({ params: { host }, identity: { tenant } }) => {
      const { hosts } = rooms().query;
      const found = hosts.get(tenant, host);
      if (!found) throw unknown('host_not_found', host, [...hosts.names(tenant)], { parameter: 'host' });
      return hostJson(found);
    },
  );
  app.delete<{ Params: { host: string } }>(
    '/hosts/:host',
    {
      config: { scope: 'admin' },
      schema: {
        summary: 'Forget a host and free its name',
        description:
          'Rows that are stored stay until their retention ends. An agent that still runs is listed again with its next frame.',
        tags,
        params,
        querystring,
        response: { 204: Type.Null({ description: 'The host is forgotten' }), ...problem(400, 403, 404, 503) },
      },
    },
    async ({ params: { host }, identity, ip: address }, reply) => {
      await forgetHost({ rooms }, { identity, address }, host);
      return reply.code(204).send();
    },
  );
}

/** A host in the form of the HTTP contract. */
export function hostJson({ lastSeen_us, description, refusals, ...host }: HostState): Host {
  return {
    ...host,
    lastSeen: lastSeen_us === null ? null : Math.floor(lastSeen_us / 1000),
    description: description && descriptionJson(description),
    refusals: refusals.map(refusalJson),
  };
}

function descriptionJson(host: HostDescription): Description {
  return {
    machineId: host.machine_id,
    agentVersion: host.agent_version,
    platform: host.platform,
    os: host.os,
    kernel: host.kernel,
    architecture: host.architecture,
    cpuModel: host.cpu_model,
    cpuCount: host.cpu_count,
    memoryBytes: host.memory_bytes,
    gpus: host.gpus,
    virtualization: host.virtualization,
    bootTime: Math.floor(host.boot_time_us / 1000),
    dmiUuid: host.dmi_uuid,
    intervalMs: host.interval_ms,
    addresses: host.addresses,
    tags: host.tags,
  };
}

function refusalJson(refusal: HostRefusal): Refusal {
  return {
    machineId: refusal.machine_id,
    addresses: refusal.addresses,
    holderMachineId: refusal.holder_machine_id,
    holderAddresses: refusal.holder_addresses,
    time: Math.floor(refusal.time_us / 1000),
    reason: refusal.reason,
  };
}
