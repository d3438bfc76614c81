// A client of LwM2M (npm lwm2m-node-lib): usage: node lwm2m_node_lib.cjs <port> <endpoint>
// It says what happened on standard output, one word a line, and takes words on standard input: press, update, end.
const client = require('lwm2m-node-lib').client;

const [port, endpoint] = [process.argv[2], process.argv[3]];
const config = {
  lifetime: '60', version: '1.0', logLevel: 'FATAL', observe: { period: 3000 }, ipProtocol: 'udp4',
  serverProtocol: 'udp4', formats: [], writeFormat: 'application/vnd.oma.lwm2m+text', senml: false,
};
client.init({ client: config });
const registry = client.registry;
const set = (uri, id, value, then) => registry.setResource(uri, id, value, then || (() => {}));
registry.create('/3/0', () => set('/3/0', '9', '81'));
registry.create('/3303/0', () => set('/3303/0', '5700', '36.6'));
registry.create('/3347/0', () => set('/3347/0', '5500', 'false', () => set('/3347/0', '5501', '3', () => {
  client.register('127.0.0.1', port, '/', endpoint, (error, info) => {
    console.log('answer ' + (error ? error.code || error.name : 'registered'));
    if (error) return;
    const handle = (type, id, resource, value, callback) => { console.log('execute ' + type + '/' + id + '/' + resource); callback(null, value); };
    client.setHandler(info.serverInfo, 'execute', handle);
    client.setHandler(info.serverInfo, 'write', (type, id, resource, value, callback) => {
      console.log('write ' + type + '/' + id + '/' + resource + ' ' + value); callback(null, value);
    });
    client.setHandler(info.serverInfo, 'read', (type, id, resource, value, callback) => { console.log('read ' + type + '/' + id + '/' + resource); callback(null, value); });
    require('readline').createInterface({ input: process.stdin }).on('line', (line) => {
      if (line === 'press') set('/3347/0', '5500', 'true', () => console.log('pressed'));
      if (line === 'update') client.update(info, (fault) => console.log('update ' + (fault ? fault.name : 'done')));
      if (line === 'end') client.unregister(info, () => { console.log('unregistered'); process.exit(0); });
    });
  });
})));
