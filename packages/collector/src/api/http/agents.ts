import { ApiError, clip } from '@fleetreel/proto/errors';
import { AgentSettingsBody, AgentSettingsChange, AgentSettingsPage, Agents } from '@fleetreel/proto/http';
import Type from 'typebox';
import { changeAgentSettings } from '#api/audit.ts';
import type { FaceParts } from '#api/faces.ts';
import { type App, json, problem } from '#api/http/app.ts';
import { one, oneOf, type Parameters } from '#api/http/parameters.ts';
import { settingsThatThereAre } from '#query/agents.ts';

const params = Type.Object({
  target: Type.String({
    description: 'all, tag:<name>=<value> or host:<host>, escaped as a part of a path',
    examples: ['host:web-1'],
  }),
});
const querystring = Type.Object({
  dryRun: Type.Optional(
    Type.Enum(['true', 'false'], { description: 'Whether nothing is changed, and only said which hosts would be' }),
  ),
});
const removal = Type.Object({
  ...querystring.properties,
  revision: Type.Optional(
    Type.String({ description: 'The revision that this is a change of; any when absent', examples: ['17'] }),
  ),
});
const isTrial = (query: Parameters) => oneOf(query, 'dryRun', ['true', 'false']) === 'true';

type Asked = { Params: { target: string }; Querystring: Parameters };

export function agentRoutes(app: App, { rooms }: FaceParts): void {
  const tags = ['agents'];
  const none = Type.Object({});
  app.get(
    '/agents',
    {
      config: { scope: 'read' },
      schema: {
        summary: 'Agents with the settings that are wanted of them, and those in effect',
        tags,
        querystring: none,
        response: { 200: json('Agents by host', Agents), ...problem(400, 503) },
      },
    },
    ({ identity: { tenant } }) => ({ agents: rooms().agents.list(tenant) }),
  );
  app.get(
    '/agents/settings',
    {
      config: { scope: 'read' },
      schema: {
        summary: 'What is wanted of agents, by target, and what can be',
        description:
          'What is wanted of all comes first, then that of the tags of a host in the order of their names, then that of the host: of two settings with one key the later counts.',
        tags,
        querystring: none,
        response: { 200: json('Targets, and settings that there are', AgentSettingsPage), ...problem(400, 503) },
      },
    },
    ({ identity: { tenant } }): AgentSettingsPage => ({
      targets: rooms().agents.targets(tenant),
      settings: [...settingsThatThereAre],
    }),
  );
  app.put<Asked & { Body: AgentSettingsBody }>(
    '/agents/settings/:target',
    {
      config: { scope: 'admin' },
      schema: {
        summary: 'Want settings of the agents of a target',
        description: 'They are in effect within an interval of those that run; others take them when they start.',
        tags,
        params,
        querystring,
        body: AgentSettingsBody,
        response: { 200: json('What is wanted now', AgentSettingsChange), ...problem(400, 409, 413, 415, 503) },
      },
    },
    ({ params: { target }, query, body, identity, ip: address }): Promise<AgentSettingsChange> => {
      const { settings: set, revision } = body;
      if (Object.keys(set).length === 0)
        throw new ApiError('missing_parameter', {
          parameter: 'settings',
          expected: 'at least one, or delete the target',
        });
      const change = { target, set, unset: [], isWhole: true, isTrial: isTrial(query), revision };
      return changeAgentSettings({ rooms }, { identity, address }, change);
    },
  );
  app.delete<Asked>(
    '/agents/settings/:target',
    {
      config: { scope: 'admin' },
      schema: {
        summary: 'Want nothing more of a target',
        tags,
        params,
        querystring: removal,
        response: { 200: json('What is wanted now', AgentSettingsChange), ...problem(400, 404, 409, 503) },
      },
    },
    ({ params: { target }, query, identity, ip: address }): Promise<AgentSettingsChange> => {
      const revision = revisionOf(query);
      const change = { target, set: {}, unset: [], isWhole: true, isTrial: isTrial(query), revision };
      return changeAgentSettings({ rooms }, { identity, address }, change);
    },
  );
}

/** The revision that is asked for; undefined for any. @throws ApiError */
function revisionOf(query: Parameters): number | undefined {
  const value = one(query.revision);
  if (value === undefined || /^\d{1,15}$/.test(value)) return value === undefined ? undefined : Number(value);
  throw new ApiError('bad_value', { parameter: 'revision', value: clip(value), expected: 'a whole number' });
}
