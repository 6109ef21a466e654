// A foreign peer: js-libp2p with gossipsub, driven by lines of JSON on standard input and answering
// with lines of JSON. Defaults everywhere: what it does is what the network does.
import { createInterface } from 'node:readline'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const say = (line) => process.stdout.write(JSON.stringify(line) + '\n')
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: {
    identify: identify(),
    ping: ping(),
    pubsub: gossipsub({ allowPublishToZeroTopicPeers: true })
  }
})
const { pubsub } = node.services

pubsub.addEventListener('gossipsub:message', ({ detail }) => {
  say({
    event: 'message',
    topic: detail.msg.topic,
    from: detail.msg.from?.toString() ?? '',
    via: detail.propagationSource.toString(),
    id: Buffer.from(detail.msgId, 'base64').toString('hex'),
    data: Buffer.from(detail.msg.data).toString('base64')
  })
})

const connection = (peer) => node.getConnections().find((c) => c.remotePeer.toString() === peer)

const commands = {
  async connect ({ addr }) {
    const { remotePeer } = await node.dial(multiaddr(addr))
    say({ event: 'connected', peer: remotePeer.toString() })
  },
  async subscribe ({ topic }) {
    pubsub.subscribe(topic)
    say({ event: 'subscribed', topic })
  },
  async mesh ({ topic }) {
    say({ event: 'mesh', topic, peers: pubsub.getMeshPeers(topic).length })
  },
  async publish ({ topic, prefix, count, everyUs }) {
    for (let i = 0; i < count; i++) {
      await pubsub.publish(topic, new TextEncoder().encode(`${prefix}${i}`))
      await pause((everyUs ?? 0) / 1000)
    }
    say({ event: 'published', topic, count })
  },
  async ping ({ peer }) {
    const rtt = await node.services.ping.ping(connection(peer).remotePeer)
    say({ event: 'pong', peer, rttUs: rtt * 1000 })
  },
  async identify ({ peer }) {
    const known = await node.peerStore.get(connection(peer).remotePeer)
    const agent = known.metadata.get('AgentVersion')
    say({ event: 'identified', peer, agent: agent ? new TextDecoder().decode(agent) : '', protocols: known.protocols })
  }
}

say({ event: 'ready', peer: node.peerId.toString(), addresses: node.getMultiaddrs().map(String) })

for await (const line of createInterface({ input: process.stdin })) {
  let command
  try {
    command = JSON.parse(line)
    await commands[command.cmd](command)
  } catch (error) {
    say({ event: 'error', cmd: command?.cmd, message: String(error) })
  }
}
await node.stop()
process.exit(0)
