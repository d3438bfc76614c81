// The npm package `mqtt` as a device: connects, subscribes to its commands, publishes, and prints what it was told.
// usage: node mqtt_npm_client.mjs PORT VERSION TOKEN   (run where `mqtt` is installed)
import { createRequire } from "node:module";

const mqtt = createRequire(process.cwd() + "/")("mqtt");
const [port, version, token] = process.argv.slice(2);
const told = { acks: 0, puback: [], down: [], granted: [], errors: [] };

const client = mqtt.connect(`mqtt://127.0.0.1:${port}`, {
  protocolVersion: Number(version),
  username: "D-1",
  password: token,
  clientId: "npm",
  clean: false,
  reconnectPeriod: 0,
  properties: version === "5" ? { sessionExpiryInterval: 60, receiveMaximum: 5 } : undefined,
});
client.on("error", (error) => told.errors.push(String(error.code)));
client.on("packetreceive", (packet) => {
  if (packet.cmd === "puback" || packet.cmd === "pubrec") told.puback.push(packet.cmd);
});
client.on("message", (topic, payload) => {
  told.down.push([topic, payload.toString()]);
  client.end(false, {}, () => console.log(JSON.stringify(told)));
});
client.on("connect", async () => {
  const granted = await client.subscribeAsync("carebell/D-1/down/#", { qos: 1 });
  told.granted = granted.map((one) => one.qos);
  const all = [];
  for (let number = 0; number < 50; number++) {
    all.push(client.publishAsync("carebell/D-1/up", JSON.stringify({ seq: number }), { qos: (number % 2) + 1 }));
  }
  await Promise.all(all);
  told.acks = all.length;
  await client.publishAsync("carebell/D-1/up", '{"done": true}', { qos: 0 });
});
