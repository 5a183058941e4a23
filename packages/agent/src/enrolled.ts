// Apart from the settings, whose schema is not loaded where samples are taken.
import { join } from 'node:path';

/** Where credentials are that this machine fetched by itself: what `nats.credentials` is where it is not said. */
export const enrolledPath = ({ data }: { data: string }): string => join(data, 'nats.creds');
