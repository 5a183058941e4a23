import type { AgentTarget } from '@fleetreel/proto/http';
import type { AgentsHandlers } from '@fleetreel/proto/services';
import { changeAgentSettings } from '#api/audit.ts';
import type { FaceParts } from '#api/faces.ts';
import { unary } from '#api/grpc/status.ts';
import { settingsThatThereAre } from '#query/agents.ts';

export function agentHandlers(parts: FaceParts): AgentsHandlers {
  const { rooms } = parts;
  return {
    ListAgents: unary(parts, 'Agents/ListAgents', async (_, { tenant }) => ({
      agents: rooms()
        .agents.list(tenant)
        .map(({ inEffect, ...agent }) => ({ ...agent, in_effect: inEffect })),
    })),
    ListAgentSettings: unary(parts, 'Agents/ListAgentSettings', async (_, { tenant }) => ({
      targets: rooms().agents.targets(tenant).map(targetMessage),
      settings: [...settingsThatThereAre],
    })),
    ChangeAgentSettings: unary(parts, 'Agents/ChangeAgentSettings', async (question, identity, address) => {
      const { target, set, unset, replace, dry_run, revision } = question;
      const { target: then, changed } = await changeAgentSettings(
        parts,
        { identity, address },
        {
          target,
          set,
          unset,
          isWhole: replace,
          isTrial: dry_run,
          revision: Number(revision) || undefined,
        },
      );
      return { target: targetMessage(then), changed };
    }),
  };
}

const targetMessage = ({ time, ...target }: AgentTarget) => ({ ...target, time_us: (time ?? 0) * 1000 });
