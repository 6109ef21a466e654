// A foreign peer: go-libp2p with go-libp2p-pubsub, driven by lines of JSON on standard input and
// answering with lines of JSON. Defaults everywhere: what it does is what the network does.
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/multiformats/go-multiaddr"
)

type command struct {
	Cmd     string `json:"cmd"`
	Addr    string `json:"addr"`
	Topic   string `json:"topic"`
	Peer    string `json:"peer"`
	Prefix  string `json:"prefix"`
	Count   int    `json:"count"`
	EveryUs int    `json:"everyUs"`
}

type node struct {
	host   host.Host
	gossip *pubsub.PubSub
	topics map[string]*pubsub.Topic
	out    sync.Mutex
}

func (n *node) say(v map[string]any) {
	line, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	n.out.Lock()
	defer n.out.Unlock()
	os.Stdout.Write(append(line, '\n'))
}

func main() {
	ctx := context.Background()
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"))
	if err != nil {
		panic(err)
	}
	gossip, err := pubsub.NewGossipSub(ctx, h)
	if err != nil {
		panic(err)
	}
	n := &node{host: h, gossip: gossip, topics: map[string]*pubsub.Topic{}}
	addresses := []string{}
	for _, a := range h.Addrs() {
		addresses = append(addresses, fmt.Sprintf("%s/p2p/%s", a, h.ID()))
	}
	n.say(map[string]any{"event": "ready", "peer": h.ID().String(), "addresses": addresses})
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(make([]byte, 1<<20), 1<<22)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			n.say(map[string]any{"event": "error", "message": err.Error()})
			continue
		}
		if err := n.run(ctx, c); err != nil {
			n.say(map[string]any{"event": "error", "cmd": c.Cmd, "message": err.Error()})
		}
	}
}

func (n *node) run(ctx context.Context, c command) error {
	switch c.Cmd {
	case "connect":
		return n.connect(ctx, c.Addr)
	case "subscribe":
		return n.subscribe(ctx, c.Topic)
	case "mesh":
		topic, err := n.join(c.Topic)
		if err != nil {
			return err
		}
		n.say(map[string]any{"event": "mesh", "topic": c.Topic, "peers": len(topic.ListPeers())})
		return nil
	case "publish":
		return n.publish(ctx, c)
	case "ping":
		return n.ping(ctx, c.Peer)
	case "identify":
		return n.identify(c.Peer)
	}
	return fmt.Errorf("no such command: %q", c.Cmd)
}

func (n *node) connect(ctx context.Context, addr string) error {
	ma, err := multiaddr.NewMultiaddr(addr)
	if err != nil {
		return err
	}
	info, err := peer.AddrInfoFromP2pAddr(ma)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := n.host.Connect(ctx, *info); err != nil {
		return err
	}
	n.say(map[string]any{"event": "connected", "peer": info.ID.String()})
	return nil
}

func (n *node) join(name string) (*pubsub.Topic, error) {
	if topic, ok := n.topics[name]; ok {
		return topic, nil
	}
	topic, err := n.gossip.Join(name)
	if err != nil {
		return nil, err
	}
	n.topics[name] = topic
	return topic, nil
}

func (n *node) subscribe(ctx context.Context, name string) error {
	topic, err := n.join(name)
	if err != nil {
		return err
	}
	sub, err := topic.Subscribe(pubsub.WithBufferSize(8192))
	if err != nil {
		return err
	}
	go func() {
		for {
			m, err := sub.Next(ctx)
			if err != nil {
				return
			}
			n.say(map[string]any{
				"event": "message",
				"topic": name,
				"from":  m.GetFrom().String(),
				"via":   m.ReceivedFrom.String(),
				"id":    id(m.Message),
				"data":  base64.StdEncoding.EncodeToString(m.Data),
			})
		}
	}()
	n.say(map[string]any{"event": "subscribed", "topic": name})
	return nil
}

// What go-libp2p-pubsub computes itself, byte for byte.
func id(m *pb.Message) string {
	return hex.EncodeToString([]byte(pubsub.DefaultMsgIdFn(m)))
}

func (n *node) publish(ctx context.Context, c command) error {
	topic, err := n.join(c.Topic)
	if err != nil {
		return err
	}
	for i := 0; i < c.Count; i++ {
		if err := topic.Publish(ctx, []byte(fmt.Sprintf("%s%d", c.Prefix, i))); err != nil {
			return err
		}
		time.Sleep(time.Duration(c.EveryUs) * time.Microsecond)
	}
	n.say(map[string]any{"event": "published", "topic": c.Topic, "count": c.Count})
	return nil
}

func (n *node) ping(ctx context.Context, text string) error {
	id, err := peer.Decode(text)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	result := <-ping.Ping(ctx, n.host, id)
	if result.Error != nil {
		return result.Error
	}
	n.say(map[string]any{"event": "pong", "peer": text, "rttUs": result.RTT.Microseconds()})
	return nil
}

func (n *node) identify(text string) error {
	id, err := peer.Decode(text)
	if err != nil {
		return err
	}
	protocols, err := n.host.Peerstore().GetProtocols(id)
	if err != nil {
		return err
	}
	agent, err := n.host.Peerstore().Get(id, "AgentVersion")
	if err != nil {
		return err
	}
	n.say(map[string]any{"event": "identified", "peer": text, "agent": agent, "protocols": protocols})
	return nil
}
