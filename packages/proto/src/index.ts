export * from '#catalog.ts';
export * from '#frame.ts';
export * from '#host.ts';
export * from '#subject.ts';
