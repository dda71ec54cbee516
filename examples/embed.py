from twisted.internet.task import react

from dig_gossip import GossipConfig, GossipService, Message


async def main(reactor: object) -> None:
    config = GossipConfig(listen_addr="127.0.0.1:0", peers_file_path="")
    alice, bob = GossipService(config), GossipService(config)
    handle = await alice.start()
    await (await bob.start()).connect_to(alice.listen_address)
    inbound = bob.handle.inbound_receiver()
    await handle.broadcast(Message(200, None, b"hello"))
    peer_id, message = await inbound.get()
    print(f"from {peer_id}: {message.data.decode()}")
    await alice.stop()
    await bob.stop()


if __name__ == "__main__":
    react(main)
