// The rival: the centrifuge library with its memory engine, WebSockets in Protobuf, pings every 25 s and
// no history. It says where it listens as a line of JSON, then takes commands as lines: `publish COUNT
// BYTES` publishes so many messages one after another and answers when they are handed out.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"

	"github.com/centrifugal/centrifuge"
)

const channel = "bench"

// mark is what the readers count.
var mark = []byte("^^")

func main() {
	node, err := centrifuge.New(centrifuge.Config{LogLevel: centrifuge.LogLevelError})
	if err != nil {
		log.Fatal(err)
	}
	node.OnConnecting(func(_ context.Context, _ centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{UserID: ""}}, nil
	})
	node.OnConnect(func(client *centrifuge.Client) {
		client.OnSubscribe(func(_ centrifuge.SubscribeEvent, answer centrifuge.SubscribeCallback) {
			answer(centrifuge.SubscribeReply{}, nil)
		})
	})
	if err := node.Run(); err != nil {
		log.Fatal(err)
	}
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	// Buffers of writes are pooled, which suits connections that are mostly idle.
	handler := centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{UseWriteBufferPool: true})
	http.Handle("/connection/websocket", handler)
	go func() { log.Fatal(http.Serve(socket, nil)) }()
	say(map[string]any{"address": socket.Addr().String()})
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var count, size int
		if _, err := fmt.Sscanf(lines.Text(), "publish %d %d", &count, &size); err != nil {
			log.Fatal(err)
		}
		data := append(bytes.Repeat([]byte("."), size-len(mark)), mark...)
		for range count {
			if _, err := node.Publish(channel, data); err != nil {
				log.Fatal(err)
			}
		}
		say(map[string]any{"published": count})
	}
}

func say(answer any) {
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		log.Fatal(err)
	}
}
