import { expect, test } from 'vitest';
import {
  accountToken,
  credentialsText,
  isPublicKey,
  KeyPair,
  readCredentials,
  readToken,
  revokedAccountToken,
  scopedUserToken,
} from '#nats_jwt.ts';

/** Made by @nats-io/nkeys 2.0.3: seed, public key, and its signature of "fleetreel". */
const theirs = [
  [
    'operator',
    'SOAO4P6SMUVZWTY7SJ3C3HC724UQXTJX4PEBXZEG3X5YDVFOU7S3G4QBA4',
    'OBSZT7RLQKGANMDVKGOMCTRSNURAN46HJAOVFGQRAHH6E5PJA6G2VKLC',
    '1rwNjhXJx4TP-CKTztwcsejbhnkG92Lhp2L7KTZHu8WvSGMYw-lbqKBTDp8u6yC5gPv9wp8mtnic9FZndueoBg',
  ],
  [
    'account',
    'SAAESVIXAJTZXUEAEHVL2IN4L6QP2M4RO6FKY4MQU3RJYBLX3N7ZJBM6A4',
    'ADMXG5QCPJBHIBHTZDHTN3L4VAYVM4RH2WELPR37NGKATTL2BXIVDTA5',
    'qvGvTq4H6zDe6B-OmbjzAWOK1nhaL7LCJz0ANg3yn2eL1MosVKprzU6oYDZ8ZqW2_GHDCn7aSy-zQXC5nBWlCQ',
  ],
  [
    'user',
    'SUAITWOQ65G3KRRUJT5EUXZQ3RNTCIHFG2CR3ESBX5JIOJSA7KC76VVPNA',
    'UAE5COG4PSZ53SJMDIHCE7O564AYMHP7J7H3JAXLW6FZF2WQYAXWYAOD',
    'DFtVQ-9M6XFcVnAL9eYn0dVxyArAcazDEVuGUvlXZqiLceOQcSfJfn0_1VgumiBbtBls86xI26-OfvhLV3ytDg',
  ],
] as const;

test.for(theirs)(
  'a key of the kind %s is read, written and used as @nats-io/nkeys does',
  ([kind, seed, key, signature]) => {
    const pair = KeyPair.fromSeed(seed);
    expect(pair).toMatchObject({ kind, publicKey: key, seed });
    expect(pair.sign(Buffer.from('fleetreel')).toString('base64url')).toBe(signature);
    expect(isPublicKey(kind, key)).toBe(true);
    expect(isPublicKey(kind === 'user' ? 'account' : 'user', key)).toBe(false);
  },
);

test('a key survives the way into text and back, and a slip of the pen is found', () => {
  for (const kind of ['operator', 'account', 'user'] as const) {
    const pair = KeyPair.create(kind);
    expect(KeyPair.fromSeed(pair.seed).publicKey).toBe(pair.publicKey);
    for (let place = 0; place < pair.seed.length; place++) {
      const letter = pair.seed[place] === 'B' ? 'C' : 'B';
      const wrong = pair.seed.slice(0, place) + letter + pair.seed.slice(place + 1);
      expect(() => KeyPair.fromSeed(wrong)).toThrow('this is no seed of a NATS key');
    }
  }
  for (const wrong of ['', 'SU', 'x', theirs[2][2], `${theirs[2][1]}A`, theirs[2][1].toLowerCase()])
    expect(() => KeyPair.fromSeed(wrong)).toThrow('this is no seed of a NATS key');
});

const signer = KeyPair.create('account');
const user = KeyPair.create('user');
const jwt = scopedUserToken(
  { subject: user.publicKey, name: 'web.1', signer, issued_s: 1000, expires_s: 2000 },
  signer.publicKey,
  { tenant: 'Acme', host: 'web_1' },
);

test('a token says who may what until when, and its signature holds it', () => {
  expect(readToken(jwt)).toMatchObject({
    sub: user.publicKey,
    iss: signer.publicKey,
    name: 'web.1',
    iat: 1000,
    exp: 2000,
    nats: { type: 'user', version: 2, issuer_account: signer.publicKey, tags: ['tenant:Acme', 'host:web_1'] },
  });
  const [header, body = '', signature] = jwt.split('.');
  const claims = JSON.parse(Buffer.from(body, 'base64url').toString());
  const other = Buffer.from(JSON.stringify({ ...claims, exp: 9000 })).toString('base64url');
  const forged = [`${header}.${other}.${signature}`, `${header}.${body}`, `${jwt}.x`, body, '', 'a.b.c'];
  for (const wrong of forged) expect(() => readToken(wrong)).toThrow('this is no token of NATS, or it was changed');
});

test('an account keeps what it had when users of it are revoked', () => {
  const operator = KeyPair.create('operator');
  const before = readToken(
    accountToken(
      { subject: signer.publicKey, name: 'AGENTS', signer: operator, issued_s: 1000 },
      { jetstream: false, scopedKeys: [], imports: [{ name: 'one' }] },
    ),
  );
  const after = readToken(
    revokedAccountToken(before, { signer: operator, issued_s: 1001 }, { [user.publicKey]: 1001 }),
  );
  expect(after).toMatchObject({ sub: before.sub, name: 'AGENTS', iat: 1001 });
  expect(after.nats).toEqual({ ...before.nats, revocations: { [user.publicKey]: 1001 } });
});

test('a credentials file is read back, whatever its line ends, and only with the seed of its token', () => {
  const text = credentialsText(jwt, user.seed);
  for (const written of [text, text.replaceAll('\n', '\r\n'), `\n${text}`])
    expect(readCredentials(written)).toMatchObject({
      jwt,
      key: { publicKey: user.publicKey },
      claims: { name: 'web.1' },
    });
  expect(() => readCredentials('')).toThrow('it has no token and seed');
  expect(() => readCredentials(credentialsText(jwt, KeyPair.create('user').seed))).toThrow(
    'its seed is not that of its token',
  );
  const secret = `${user.seed.slice(0, -1)}2`;
  expect(() => readCredentials(credentialsText(jwt, secret))).toThrow(/^((?!SU).)*$/);
});
