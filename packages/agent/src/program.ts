import manifest from '../package.json' with { type: 'json' };

/** The program's name and version: apart from its settings, which the sampling process does without. */
export const name = 'fleetreel-agent';
export const version: string = manifest.version;
