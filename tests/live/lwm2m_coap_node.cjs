// A client of LwM2M 1.0 (npm coap-node): usage: node lwm2m_coap_node.cjs <port> <endpoint>
// It says what happened on standard output, one word a line, and takes words on standard input: press, release, end.
const CoapNode = require('coap-node');
const SmartObject = require('smartobject');

const [port, endpoint] = [Number(process.argv[2]), process.argv[3]];
const so = new SmartObject();
so.init(3347, 0, { 5500: false, 5501: 7 });
so.init(3303, 0, { 5700: 21.5, 5701: 'Cel' });
so.init(6, 0, { 0: 39.1235, 1: 117.2011, 5: 1700000000 });

const node = new CoapNode(endpoint, so, { lifetime: 60 });
node.on('error', (error) => console.log('error ' + error));
node.on('registered', () => console.log('registered'));
node.on('deregistered', () => { console.log('deregistered'); process.exit(0); });
node.register('127.0.0.1', port, (error, answer) => {
  console.log('answer ' + (error ? error.message : answer.status));
});
let pressed = 7;
require('readline').createInterface({ input: process.stdin }).on('line', (line) => {
  if (line === 'press') {
    so.write(3347, 0, 5501, ++pressed, () => so.write(3347, 0, 5500, true, () => console.log('pressed')));
  } else if (line === 'release') {
    so.write(3347, 0, 5500, false, () => console.log('released'));
  } else if (line === 'end') {
    node.deregister(() => {});
  }
});
